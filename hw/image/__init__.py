"""The card image: Debian, the product, and what keeps both alive when the power is pulled."""
