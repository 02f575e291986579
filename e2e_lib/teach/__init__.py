"""The workshop's exercises: what a notebook asks, and checks that know wrong answers."""
