//! Dockerfile text to typed instructions (owner: front helper; ast.rs is shared contract).

pub mod ast;
