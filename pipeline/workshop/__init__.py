"""The workshop: notebooks for learners, slides and a pack, all made of workshop/."""
