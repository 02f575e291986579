"""The embedded world: small stories with the truth about every token, and a tiny model of them."""
