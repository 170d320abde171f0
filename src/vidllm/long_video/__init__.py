"""Long and live videos in windows at bounded memory (docs/long_video.md)."""
