"""Engines side by side on one folder of sounds: what each does to the same recordings, what it costs and needs.

    python -m quant.evaluate --pairs DIR --engines dsp,rnnoise,noisy    # DIR/clean and DIR/noisy, same names
    python -m quant.evaluate --noisy DIR --engines dsp,rnnoise,noisy    # no clean reference
    python -m quant.evaluate --pairs DIR --engines all                  # all that the settings can name

All sounds are 16 kHz mono. Every engine is fed hop by hop as if live; the median lag of its outputs over the whole set
is removed, then every file is measured. With a reference: PESQ-WB (ITU-T P.862.2), STOI (Taal 2011), ESTOI (Jensen &
Taal 2016), SI-SDR (Le Roux 2019) and its improvement, the level of clean speech kept (the engine run on the clean
file), the noise removed while nobody speaks and from the noise alone, and the area under the ROC curve of the speech
probability. Without: the noise removed where speech is least likely. Always: DNSMOS (Reddy 2022) on the first 9.01 s.

DIR/dev.tsv may name each file's SNR and kind of noise (columns name, snr_db, noise_kind): then come tables by both.
The cost is taken in a process of its own for each engine, on one thread, before anything else runs.
"""
