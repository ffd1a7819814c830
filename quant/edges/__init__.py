"""Speech at its edges: words after a pause, whispers, songs, quiet talkers and speech over music.

    python -m quant.edges                                        # our engines and the peers installed here
    python -m quant.edges --engines network,file:new.onnx --json figures.json
    python -m quant.edges --voices DIR                           # other talkers, one a file of clean speech
    python -m quant.edges --write DIR                            # the recordings as pairs for quant.evaluate

Nothing is stored: every recording is computed from the clean speech in tests/sounds (three talkers, CC BY-SA 3.0) and
from seeds, the same at every call. Training draws the same kinds from other seeds and without these talkers
(``models.mix.edge_kinds``), so that what is learnt there is not what is measured here.

``cases`` is the set, from ``voices`` (synthetic talkers) and ``signals`` (noise, music, whisper); ``losses`` what is
measured; ``run`` and ``tables`` the figures.
"""
