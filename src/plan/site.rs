//! A place in the Dockerfile that faults and steps belong to: one instruction, or the FROM line for what is triggered.

use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{Dockerfile, Instruction, Stage};
use crate::source::{Lines, Source, Span};

/// Where an instruction stands.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    source: Arc<Source>,
    span: Span,
    /// The instruction's lines.
    pub(crate) lines: Lines,
}

impl Site {
    pub(crate) fn instruction(file: &Dockerfile, instruction: &Instruction) -> Self {
        Self { source: Arc::clone(&file.source), span: instruction.span, lines: instruction.lines }
    }

    pub(crate) fn from_line(file: &Dockerfile, stage: &Stage) -> Self {
        Self { source: Arc::clone(&file.source), span: stage.span, lines: stage.lines }
    }

    /// The same instruction, pointing at a part of it.
    pub(crate) fn at(&self, span: Span) -> Self {
        Self { span, ..self.clone() }
    }

    /// Whether a span is a part of the place; spans of triggers are not.
    pub(crate) fn covers(&self, span: Span) -> bool {
        self.span.start <= span.start && span.end <= self.span.end
    }

    /// A fault here.
    pub(crate) fn fault(&self, code: &'static str, text: impl Into<String>) -> Diagnostic {
        Diagnostic::meaning(code, text, &self.source, self.span, self.lines)
    }

    /// A fault found elsewhere, shown here.
    pub(crate) fn adopt(&self, fault: Diagnostic) -> Diagnostic {
        fault.moved_to(&self.source, self.span, self.lines)
    }
}

/// A fault that belongs to no instruction.
pub(crate) fn of_file(file: &Dockerfile, code: &'static str, text: String) -> Diagnostic {
    let fault = Diagnostic::meaning(code, text, &file.source, Span::default(), Lines::default());
    Diagnostic { lines: None, ..fault }
}
