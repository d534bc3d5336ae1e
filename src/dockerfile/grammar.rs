//! The pest parsers made from `grammar/`. The generated types stay in here and in `lower`; the AST knows nothing of them.

/// Parser of one logical instruction.
pub(super) mod line {
    use pest_derive::Parser;

    #[derive(Parser)]
    #[grammar = "../grammar/dockerfile.pest"]
    pub(in crate::dockerfile) struct LineParser;
}

/// Parser of the CSV record in `--mount` and `--device`.
pub(super) mod record {
    use pest_derive::Parser;

    #[derive(Parser)]
    #[grammar = "../grammar/mount.pest"]
    pub(in crate::dockerfile) struct RecordParser;
}
