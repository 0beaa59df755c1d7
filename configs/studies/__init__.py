"""Studies, one per question: many paired runs and what is asked of them."""
