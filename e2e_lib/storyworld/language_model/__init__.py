"""The tiny GPT-2 of StoryWorld: its shape and files, its training, what it knows."""
