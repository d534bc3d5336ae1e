//! The one list of variables of a stage: ENV and ARG together, the later instruction wins (observed 11).
//!
//! Setting a name moves it to the end, as in the order BuildKit hands to processes.

/// Variables in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Env(Vec<Variable>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    name: String,
    value: String,
    origin: Origin,
}

/// Which instruction a variable's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// ENV, in the Dockerfile or of a base image.
    Env,
    /// ARG
    Arg,
}

impl Env {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|variable| variable.name == name).map(|variable| variable.value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str, origin: Origin) {
        self.remove(name);
        self.0.push(Variable { name: name.to_owned(), value: value.to_owned(), origin });
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|variable| variable.name != name);
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|variable| variable.name.as_str())
    }

    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        self.0.iter().map(|variable| (variable.name.clone(), variable.value.clone())).collect()
    }

    /// Names whose value an ARG gave.
    pub(crate) fn arg_names(&self) -> Vec<String> {
        self.0.iter().filter(|v| v.origin == Origin::Arg).map(|v| v.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_set_again_moves_to_the_end() {
        let mut env = Env::default();
        env.set("A", "1", Origin::Env);
        env.set("B", "2", Origin::Arg);
        env.set("A", "3", Origin::Arg);
        assert_eq!(env.pairs(), [("B".into(), "2".into()), ("A".into(), "3".into())]);
        assert_eq!(env.arg_names(), ["B", "A"]);
        env.remove("B");
        assert_eq!(env.get("B"), None);
        assert_eq!(env.names().collect::<Vec<_>>(), ["A"]);
    }
}
