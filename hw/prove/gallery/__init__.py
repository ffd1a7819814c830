"""The gallery in docs/gallery: what the box does to five kinds of noise, to listen to, to look at, and in figures.

    python -m hw.prove.gallery [--out docs/gallery]

writes for each recording three sounds (clean, noisy, output; Ogg Vorbis), a picture, and together figures.json,
README.md and index.html, which holds everything and plays in a browser. ``recordings`` has the sounds, ``pages`` the
two pages. Every figure but the date and the commit is the same at every call.
"""
