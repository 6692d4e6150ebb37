"""What compositions of policies are worth on poles of four lengths, and on landers with two rewards.

Arms, claims with their rules, and the page. Uses genepool as its users do. The verdicts are those of the other claims
(`benchmarks.claims.verdict`).
"""
