"""What touches the board. So far `virtual/`: the sound card that stands in for one."""
