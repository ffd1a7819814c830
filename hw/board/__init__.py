"""The Raspberry Pi: which board it is, its config.txt, LED and button, its USB port as a microphone."""
