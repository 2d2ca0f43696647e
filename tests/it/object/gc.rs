//! What `vmferry gc` finds below a prefix.
