//! Jinja as Hugging Face's tokenizers set it up.

use std::path::Path;
use std::sync::LazyLock;

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use regex::Regex;

use super::ChatError;
use super::json::tojson;

/// Name of the one template of an environment.
pub(super) const NAME: &str = "chat_template";
/// Steps that a template may take; 64 bytes of text count as one.
pub(super) const FUEL: u64 = 20_000_000;
/// A template longer than this is refused, in bytes.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Macros within macros beyond this are refused.
const MAX_DEPTH: usize = 100;

/// The environment of a template, which `file` holds.
///
/// # Source
/// `_compile_jinja_template` of transformers.
pub(super) fn of(template: &str, file: &Path) -> Result<Environment<'static>, ChatError> {
    if template.len() > MAX_TEMPLATE_BYTES {
        let (bytes, limit) = (template.len(), MAX_TEMPLATE_BYTES);
        return Err(ChatError::TooLarge { file: file.to_path_buf(), bytes, limit });
    }
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the marks are Jinja's own"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    let syntax = |source: Error| {
        let line = source.line().unwrap_or(1);
        ChatError::Syntax { file: file.to_path_buf(), line, source }
    };
    environment.add_template_owned(NAME, without_marks(template)).map_err(syntax)?;
    Ok(environment)
}

/// Turns `{% generation %}` blocks, which transformers knows and Jinja does not, into blocks that always count.
fn without_marks(template: &str) -> String {
    static MARK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is constant")
    });
    let block = |mark: &regex::Captures| {
        let word = if mark.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &mark[1], &mark[3])
    };
    MARK.replace_all(template, block).into_owned()
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Today, as the `strftime` of Python and C writes it.
fn strftime_now(format: &str) -> Result<String, Error> {
    let wrong = |source| Error::new(ErrorKind::InvalidOperation, "no such date format").with_source(source);
    jiff::fmt::strtime::format(format, &Zoned::now()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> Result<String, Error> {
        let environment = of(template, Path::new("chat_template.jinja")).unwrap();
        environment.get_template(NAME).unwrap().render(())
    }

    #[test]
    fn lines_of_blocks_leave_no_blank_lines() {
        assert_eq!(rendered("{% if true %}\n    {% set x = 1 %}\na\n{% endif %}\nb\n").unwrap(), "a\nb");
    }

    #[test]
    fn generation_marks_change_nothing() {
        let marked = "{% for x in 'ab' %}{%- generation -%} {{ x }}\n{% endgeneration %}\n;{% endfor %}";
        let plain = "{% for x in 'ab' %}{%- if true -%} {{ x }}\n{% endif %}\n;{% endfor %}";
        assert_eq!(rendered(marked).unwrap(), rendered(plain).unwrap());
        assert_eq!(rendered(marked).unwrap(), "a\n;b\n;");
    }

    #[test]
    fn python_methods_and_loop_controls_work() {
        let template = "{% for x in ' a b c '.strip().split() %}{% if x == 'b' %}{% continue %}{% endif %}{{ x.upper() }}{% endfor %}";
        assert_eq!(rendered(template).unwrap(), "AC");
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
    fn a_loop_without_end_is_stopped() {
        let endless = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}";
        assert!(rendered(endless).is_err());
        let long = "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}";
        assert_eq!(rendered(long).unwrap_err().kind(), ErrorKind::OutOfFuel);
        let growing = "{% set n = namespace(x='ab') %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}";
        assert_eq!(rendered(growing).unwrap_err().kind(), ErrorKind::OutOfFuel);
    }

    #[test]
    fn a_template_that_is_no_jinja_is_named_with_its_line() {
        let wrong = of("a\nb\n{% if %}", Path::new("x.jinja")).unwrap_err();
        assert!(matches!(wrong, ChatError::Syntax { line: 3, .. }), "{wrong:?}");
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(matches!(of(&nested, Path::new("x.jinja")), Err(ChatError::Syntax { .. })));
    }

    #[test]
    fn a_template_of_more_than_a_megabyte_is_refused() {
        let long = "x".repeat(MAX_TEMPLATE_BYTES + 1);
        assert!(matches!(of(&long, Path::new("x.jinja")), Err(ChatError::TooLarge { .. })));
    }
}
