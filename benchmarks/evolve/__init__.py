"""What breeding is worth and what it costs: quality at equal budget, pace, thrift, from scratch, scaling."""
