//! (skeleton: the owner of this module replaces this header)
