//! Jinja as Hugging Face's tokenizers set it up.

use jiff::Zoned;
use minijinja::{AutoEscape, Environment, Error, State};

use super::guard::{invalid, pay_bytes};
use super::{filters, methods, operators, print};

/// Macros within macros beyond this are refused.
const MAX_DEPTH: usize = 100;
/// So much is shown of what a template says as it gives up.
const MAX_RAISED_CHARS: usize = 1000;
/// No part of a date is longer: its width is a byte.
const MAX_DATE_CHARS: u64 = 255;
/// The environment of a template.
///
/// # Source
/// `_compile_jinja_template` of transformers.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // What is on hand when something goes wrong would be copied into the error.
    environment.set_debug(false);
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_formatter(print::formatter);
    environment.set_unknown_method_callback(methods::call);
    operators::add_to(&mut environment);
    filters::add_to(&mut environment);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// What the template says, without what would command a terminal.
fn raise_exception(message: String) -> Result<String, Error> {
    let char =
        |char: char| if char.is_control() { char.escape_default().to_string() } else { char.to_string() };
    Err(invalid(message.chars().take(MAX_RAISED_CHARS).map(char).collect::<String>()))
}

/// Today, as the `strftime` of Python and C writes it.
fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    pay_bytes(state, (format.matches('%').count() as u64).saturating_mul(MAX_DATE_CHARS))?;
    let wrong = |source| invalid("no such date format").with_source(source);
    jiff::fmt::strtime::format(format, &Zoned::now()).map_err(wrong)
}

#[cfg(test)]
pub(super) mod tests {
    use minijinja::Value;
    use minijinja::value::Serde;
    use serde_json::{Value as Json, json};

    use super::super::program::Program;
    use super::*;

    /// What a template writes with these variables, or what is wrong.
    pub fn with(template: &str, variables: &Json) -> Result<String, String> {
        let mut environment = new();
        environment.set_fuel(Some(2_000_000));
        let program = Program::compile(template).map_err(|error| error.to_string())?;
        program.render(&environment, Value::from(Serde(variables))).map_err(|error| error.to_string())
    }

    pub fn rendered(template: &str) -> Result<String, String> {
        with(template, &json!({}))
    }

    /// Each template is wrapped in an expression and gives the text beside it.
    pub fn assert_all(cases: &[(&str, &str)]) {
        for (expression, expected) in cases {
            let text = rendered(&format!("{{{{ {expression} }}}}"));
            assert_eq!(text.as_deref(), Ok(*expected), "{expression}");
        }
    }

    #[test]
    fn lines_of_blocks_leave_no_blank_lines() {
        assert_eq!(rendered("{% if true %}\n    {% set x = 1 %}\na\n{% endif %}\nb\n").unwrap(), "a\nb");
    }

    #[test]
    fn loop_controls_work() {
        let template = "{% for x in 'abc' %}{% if x == 'b' %}{% continue %}{% endif %}{{ x }}{% endfor %}";
        assert_eq!(rendered(template).unwrap(), "ac");
    }

    #[test]
    fn nothing_is_escaped() {
        assert_eq!(rendered("{{ '<b>&' }}").unwrap(), "<b>&");
    }

    #[test]
    fn today_is_written_in_the_format_asked_for() {
        let today = rendered("{{ strftime_now('%d %b %Y') }}").unwrap();
        assert_eq!(today.len(), 11, "{today}");
        assert!(rendered("{{ strftime_now('%') }}").is_err());
    }

    #[test]
    fn what_a_template_raises_is_its_own_words() {
        for words in ["no such role", "roles must alternate: user, assistant"] {
            let message = rendered(&format!("{{{{ raise_exception('{words}') }}}}")).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
        let message = rendered("{{ raise_exception('\\x1b[2J') }}").unwrap_err();
        assert!(message.contains("\\u{1b}[2J"), "{message}");
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (template, name) in
            [("{{ x|nope }}", "nope"), ("{{ nope() }}", "nope"), ("{{ 1 is nope }}", "nope")]
        {
            let message = rendered(template).unwrap_err();
            assert!(message.contains(name), "{message}");
        }
    }
}
