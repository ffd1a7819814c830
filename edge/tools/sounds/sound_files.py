"""What reading and writing of sound files have in common."""

BLOCK_FRAMES = 16_384
RATES_HZ = (4_000, 192_000)


def one_line(error: Exception) -> str:
    """The text of an error of libsndfile."""
    return " ".join(str(getattr(error, "error_string", error)).split())
