//! `--progress=rawjson`: one JSON object per event, in the fields of BuildKit's status stream.

use std::io::Write as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::display::Sink;
use super::trace::Trace;
use crate::event::{Event, EventKind, Outcome, Place, Stream, VertexId, Warning};

/// The error of a vertex that was stopped; readers look for it at the end of the text.
const CANCELED: &str = "context canceled";

/// The screen.
pub(super) struct RawJson {
    sink: Sink,
    trace: Trace,
    inputs: std::collections::BTreeMap<VertexId, Vec<VertexId>>,
}

impl RawJson {
    pub(super) fn new(sink: Sink) -> Self {
        Self { sink, trace: Trace::default(), inputs: std::collections::BTreeMap::new() }
    }

    pub(super) fn observe(&mut self, event: &Event) {
        if !self.trace.apply(event) {
            return;
        }
        let object = match &event.kind {
            EventKind::Vertex { inputs, .. } => {
                self.inputs.insert(event.vertex, inputs.clone());
                json!({ "vertexes": [self.vertex(event.vertex)] })
            }
            EventKind::Started | EventKind::Finished(_) => json!({ "vertexes": [self.vertex(event.vertex)] }),
            EventKind::Log(stream, data) => json!({ "logs": [{
                "vertex": self.digest(event.vertex),
                "stream": match stream { Stream::Stdout => 1, Stream::Stderr => 2 },
                "data": STANDARD.encode(data),
                "timestamp": time(event.time),
            }] }),
            EventKind::Status(status) => {
                let mut part = Map::new();
                part.insert("id".to_owned(), json!(status.id));
                part.insert("vertex".to_owned(), json!(self.digest(event.vertex)));
                if status.total > 0 {
                    part.insert("total".to_owned(), json!(status.total));
                }
                part.insert("current".to_owned(), json!(status.current));
                part.insert("timestamp".to_owned(), json!(time(event.time)));
                let vertex = self.trace.get(event.vertex);
                let known = vertex.and_then(|vertex| vertex.parts.iter().find(|part| part.status.id == status.id));
                part.insert("started".to_owned(), json!(time(known.map_or(event.time, |part| part.since))));
                if status.completed {
                    part.insert("completed".to_owned(), json!(time(event.time)));
                }
                json!({ "statuses": [part] })
            }
            EventKind::Warning(warning) => json!({ "warnings": [self.warning(event.vertex, warning)] }),
            EventKind::Excerpt(_) => return,
        };
        let mut line = object.to_string();
        line.push('\n');
        let _ = self.sink.write_all(line.as_bytes()).and_then(|()| self.sink.flush());
    }

    /// Excerpts are text for people; they follow the objects as they do with BuildKit's client.
    pub(super) fn close(&mut self) {
        let _ = self.sink.write_all(self.trace.excerpts().as_bytes()).and_then(|()| self.sink.flush());
    }

    fn vertex(&self, id: VertexId) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("digest".to_owned(), json!(self.digest(id)));
        let Some(vertex) = self.trace.get(id) else { return object };
        let inputs: Vec<_> = self.inputs.get(&id).into_iter().flatten().map(|input| self.digest(*input)).collect();
        if !inputs.is_empty() {
            object.insert("inputs".to_owned(), json!(inputs));
        }
        object.insert("name".to_owned(), json!(vertex.name));
        if let Some(since) = vertex.since() {
            object.insert("started".to_owned(), json!(time(since)));
        }
        if let Some((at, outcome)) = vertex.end() {
            object.insert("completed".to_owned(), json!(time(at)));
            match outcome {
                Outcome::Done => {}
                Outcome::Cached => _ = object.insert("cached".to_owned(), json!(true)),
                Outcome::Canceled => _ = object.insert("error".to_owned(), json!(CANCELED)),
                Outcome::Error(text) => _ = object.insert("error".to_owned(), json!(text)),
            }
        }
        object
    }

    fn warning(&self, id: VertexId, warning: &Warning) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("vertex".to_owned(), json!(self.digest(id)));
        object.insert("level".to_owned(), json!(1));
        object.insert("short".to_owned(), json!(STANDARD.encode(&warning.short)));
        if !warning.detail.is_empty() {
            let detail: Vec<_> = warning.detail.iter().map(|line| STANDARD.encode(line)).collect();
            object.insert("detail".to_owned(), json!(detail));
        }
        if let Some(url) = &warning.url {
            object.insert("url".to_owned(), json!(url));
        }
        if let Some(Place { source, lines }) = &warning.place {
            let info =
                json!({ "filename": source.name, "data": STANDARD.encode(&source.text), "language": "Dockerfile" });
            object.insert("sourceInfo".to_owned(), info);
            let range = json!([{ "start": { "line": lines.first }, "end": { "line": lines.last } }]);
            object.insert("range".to_owned(), range);
        }
        object
    }

    /// A name in the form of a digest, unique within the build; the same build gives the same ones.
    fn digest(&self, id: VertexId) -> String {
        let name = self.trace.get(id).map_or("", |vertex| &vertex.name);
        let hash = Sha256::digest(format!("{} {name}", id.0));
        hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// RFC 3339 with as many digits of a second as there are.
fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::script::{self, Moment, Recorder};

    #[test]
    fn golden_cases() {
        for case in script::cases() {
            let recorder = Recorder::default();
            let mut screen = RawJson::new(recorder.sink());
            for moment in &case.moments {
                match moment {
                    Moment::Event(event) => screen.observe(event),
                    Moment::Tick(_) => {}
                }
            }
            screen.close();
            script::check(&case, "rawjson", &recorder.text());
        }
    }
}
