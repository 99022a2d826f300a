"""Many runs: studies, statistics, comparisons, claims, tables, costs."""
