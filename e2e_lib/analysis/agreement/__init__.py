"""Subject-verb agreement: does a spliced model still do the task?"""
