"""Number formats of low-precision training; torch alone, no board."""
