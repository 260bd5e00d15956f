"""Why a detector found what it found, and why not: the answers of its network, followed through each test."""
