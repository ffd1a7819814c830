"""A student of ours learns from a teacher: any engine, somebody else's suppressor, or a larger network of ours.

    python -m quant.distil --teacher dfn3 --noisy DIR --init models/quietbox/weights.pt --out RUN --minutes 60
    python -m quant.distil --teacher large/weights.pt --noisy DIR --shape '{"channels": 24}' --out RUN --minutes 600
    python -m quant.distil --teacher gtcrn --data DIR --trust 0.5 --init weights.pt --out RUN --minutes 60

The clean speech need not be known: the teacher processes every recording once, from beginning to end; its lag, the
median over all recordings, is taken off, and its output is the student's target (teaching by outputs:
Hinton, Vinyals & Dean 2015, arXiv 1503.02531). The pairs lie in RUN/pairs.npz, so that ``--resume`` begins at once.
Segments are cut from them at random and learnt as in ``models.train``, whose loss, schedule, averaged weights and
checkpoints these are; the speech labels, too, come from the teacher's output. The student works at 10 ms whatever
the teacher's look-ahead: it cannot copy what it has not received yet, and learns the best guess.

With ``--data`` (recordings as for training) mixtures take the recordings' place, and the clean sound is known: then
``--trust`` is the chance that a segment's target is the teacher's output and not the clean file, which in the mean is
``trust`` times one loss plus ``1 - trust`` times the other.

The end of every recording, a fifth of it up to 20 s, is kept apart: there the student's output is held against the
teacher's (SI-SDR towards it), before and after.
"""
