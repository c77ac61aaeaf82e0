//! What of a conversation its template passes over.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::conversation::THOUGHTS;
use super::{ChatTemplate, Conversation, Message, Prompt};

/// Fields of a message that every template reads.
const ALWAYS_READ: [&str; 2] = ["role", "content"];

/// Something that a conversation says beside what user and assistant say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Beside {
    /// The tools.
    Tools,
    /// The documents.
    Documents,
    /// A further variable of the template.
    Variable(String),
    /// A field of messages.
    Field(String),
    /// The parts of one type in messages that are lists.
    Parts(String),
    /// The messages of one role.
    Messages(String),
}

impl ChatTemplate {
    /// The names of what a conversation says and its template does not read: `text`, which it made of it, would be the same
    /// without. As names stand fields, roles, and the types of parts.
    pub fn unread(&self, conversation: &Conversation, text: &str) -> Vec<String> {
        let besides = besides(conversation);
        let others: Vec<&Beside> = besides.iter().filter(|it| !self.may_read(it)).collect();
        // Most of what a template does not mention changes nothing, so all of it is left out at once first.
        let are_unread = !others.is_empty() && self.is_same_without(&others, conversation, text);
        let is_unread = |it: &&Beside| match others.contains(it) {
            // A list that is printed as it stands is not read.
            true if are_unread || matches!(it, Beside::Parts(_)) => true,
            true | false => self.is_same_without(&[it], conversation, text),
        };
        besides.iter().filter(is_unread).map(|beside| beside.name().to_owned()).collect()
    }

    fn may_read(&self, beside: &Beside) -> bool {
        beside.words().is_none_or(|words| words.iter().any(|word| self.mentions(word)))
    }

    /// Whether the template makes the same text of a conversation that does not say some things; one that fails does not.
    fn is_same_without(&self, besides: &[&Beside], conversation: &Conversation, text: &str) -> bool {
        let other = besides.iter().fold(conversation.clone(), |other, beside| beside.removed_from(other));
        self.tried(&other, Prompt::Complete).is_ok_and(|written| self.unmarked(written, &other) == text)
    }
}

/// All that a conversation says beside what user and assistant say.
fn besides(conversation: &Conversation) -> BTreeSet<Beside> {
    let of_row = [(Beside::Tools, &conversation.tools), (Beside::Documents, &conversation.documents)];
    let mut found: BTreeSet<Beside> =
        of_row.into_iter().filter(|(_, value)| !value.is_null()).map(|(beside, _)| beside).collect();
    found.extend(conversation.variables.keys().cloned().map(Beside::Variable));
    for message in &conversation.messages {
        let keys = message.fields().keys().filter(|key| !ALWAYS_READ.contains(&key.as_str()));
        found.extend(keys.cloned().map(Beside::Field));
        if message.fields().get("content").is_some_and(Value::is_array) {
            found.extend(message.parts().iter().filter_map(type_of).map(str::to_owned).map(Beside::Parts));
        }
        if !["user", "assistant"].contains(&message.role()) {
            found.insert(Beside::Messages(message.role().to_owned()));
        }
    }
    found
}

fn type_of(part: &Value) -> Option<&str> {
    part.get("type")?.as_str()
}

impl Beside {
    fn name(&self) -> &str {
        match self {
            Self::Tools => "tools",
            Self::Documents => "documents",
            Self::Variable(name) | Self::Field(name) | Self::Parts(name) | Self::Messages(name) => name,
        }
    }

    /// Words of which a template that reads it has one; `None` if it needs none.
    fn words(&self) -> Option<Vec<&str>> {
        match self {
            Self::Field(name) if THOUGHTS.contains(&name.as_str()) => Some(THOUGHTS.to_vec()),
            Self::Tools | Self::Documents | Self::Variable(_) | Self::Field(_) | Self::Parts(_) => {
                Some(vec![self.name()])
            }
            Self::Messages(_) => None,
        }
    }

    /// The conversation without it.
    fn removed_from(&self, mut other: Conversation) -> Conversation {
        match self {
            Self::Tools => other.tools = Value::Null,
            Self::Documents => other.documents = Value::Null,
            Self::Variable(name) => {
                other.variables.remove(name);
            }
            Self::Field(_) => other.messages.iter_mut().for_each(|message| self.remove_field(message)),
            Self::Parts(kind) => other.messages.iter_mut().for_each(|message| remove_parts(message, kind)),
            Self::Messages(role) => other.messages.retain(|message| message.role() != role),
        }
        other
    }

    fn remove_field(&self, message: &mut Message) {
        let names = self.words().unwrap_or_default();
        let kept = message.fields().iter().filter(|(key, _)| !names.contains(&key.as_str()));
        *message = Message::of_fields(kept.map(|(key, value)| (key.clone(), value.clone())).collect());
    }
}

fn remove_parts(message: &mut Message, kind: &str) {
    let mut fields: Map<String, Value> = message.fields().clone();
    if let Some(Value::Array(parts)) = fields.get_mut("content") {
        parts.retain(|part| type_of(part) != Some(kind));
    }
    *message = Message::of_fields(fields);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::template;
    use super::*;

    fn unread(source: &str, messages: Value) -> Vec<String> {
        let messages = messages.as_array().unwrap().iter();
        let messages = messages.map(|fields| Message::of_fields(fields.as_object().unwrap().clone()));
        let mut talk = Conversation::new(messages.collect());
        talk.tools = json!([{"name": "tide"}]);
        talk.variables = json!({"enable_thinking": false}).as_object().unwrap().clone();
        let template = template(source);
        let text = template.render(&talk, Prompt::Complete).unwrap();
        template.unread(&talk, &text)
    }

    #[test]
    fn what_changes_nothing_is_named_even_if_its_name_stands_in_the_template() {
        let messages = json!([{"role": "user", "content": "a", "name": "bob", "id": 7}]);
        let names =
            "{% for t in tools %}{{ t.name }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}";
        assert_eq!(unread(names, messages.clone()), ["enable_thinking", "id", "name"]);
        let reads =
            "{{ tools }}{{ enable_thinking }}{% for m in messages %}{{ m.name }}{{ m.id }}{% endfor %}";
        assert_eq!(unread(reads, messages.clone()), [""; 0]);
        let prints = "{{ tools }}{{ enable_thinking }}{{ messages[0]|tojson }}";
        assert_eq!(unread(prints, messages.clone()), [""; 0]);
        let needs = "{% if not tools %}{{ raise_exception('no') }}{% endif %}{{ enable_thinking }}";
        assert_eq!(unread(needs, messages), ["id", "name"]);
    }

    #[test]
    fn thoughts_are_read_under_any_name() {
        let all = "{{ tools }}{{ enable_thinking }}";
        for name in THOUGHTS {
            let messages = json!([{"role": "assistant", "content": "a", name: "hm"}]);
            assert_eq!(unread(all, messages.clone()), [name]);
            for read in ["reasoning_content", "thinking"] {
                assert_eq!(unread(&format!("{all}{{{{ messages[0].{read} }}}}"), messages.clone()), [""; 0]);
            }
        }
    }

    #[test]
    fn parts_and_roles_that_are_not_written_are_named() {
        let messages = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "image", "url": "a"}, {"type": "text", "text": "b"}]},
            {"role": "ipython", "content": "c"},
        ]);
        let all = "{{ tools }}{{ enable_thinking }}";
        let texts = "{% for m in messages if m.role != 'ipython' %}{% if m.content is string %}{{ m.content }}{% else %}\
            {% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}";
        assert_eq!(unread(&format!("{all}{texts}"), messages.clone()), ["image", "ipython"]);
        let printed = "{% for m in messages %}{{ m.content }}{% endfor %}";
        assert_eq!(unread(&format!("{all}{printed}"), messages), ["image", "text"]);
    }
}
