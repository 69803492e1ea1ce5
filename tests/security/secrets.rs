//! Secrets: changed without a gap, and written nowhere.
