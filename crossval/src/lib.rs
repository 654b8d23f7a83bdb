//! Cross-validation driver: engines in workers, comparison, verdict, command line.
