"""What outcomes tell beyond a mean: transfer, complementary knowledge, mixes of skills, forgetting."""
