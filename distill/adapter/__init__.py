"""The motion adapter: a copy of the last backbone stage that learns what a motion teacher sees.

Lessons into frozen pooled vectors change next to nothing. So the motion branch gets its own last
stage (Eq. 5 of the paper, with phi_mot = that stage): it reads cached maps of the stage before it,
learns to predict the teacher's backbone features without any label, before a detector is trained,
and its pooled output becomes one more stream of the store, ``tsm18:rgb+motion``. The stage stays
light, everything below it stays computed once.
"""
