//! A template, compiled, with the operators of Python in place of the engine's.
//!
//! The engine's own operators differ from Python's in places, and walk over values without counting it. Each instruction
//! that builds, compares or joins values is therefore replaced by a call of [`super::operators`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::LazyLock;
use std::thread;

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use regex::{Captures, Regex};
use self_cell::self_cell;

use crate::caught::caught;

use super::filters::{ITERATED, UNKNOWN, is_known};
use super::methods;
use super::operators::{ATTRIBUTE, DICT, LIST, SET_ATTRIBUTE, SLICE, TUPLE, chained};

/// Name of the one template.
const NAME: &str = "chat_template";
/// An expression may have this many words, and a template this many branches behind the first of a condition.
const MAX_WORDS: usize = 4000;
const MAX_BRANCHES: usize = 1000;
const COMPILER_STACK_BYTES: usize = 64 << 20;
/// The engine looks the filter up each time.
const NOT_CACHED: u8 = !0;
/// Names of the conditions that stand for the start and the end of a block.
const OPEN: &str = "__generation__";
const CLOSE: &str = "__end_generation__";
/// Marks around what a `{% generation %}` block writes; Unicode keeps them for the use of programs.
pub(super) const BLOCK_MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

struct Compiled<'source> {
    main: Instructions<'source>,
    blocks: BTreeMap<&'source str, Instructions<'source>>,
}

self_cell!(
    /// A compiled template with its text.
    pub(super) struct Program {
        owner: String,
        #[covariant]
        dependent: Compiled,
    }
);

impl Program {
    /// The program of a template.
    ///
    /// # Errors
    /// If it is no Jinja.
    pub fn compile(template: &str) -> Result<Self, Error> {
        let template = with_marks(template);
        check_length(&template)?;
        // The compiler calls itself for each part of an expression.
        let compiler = thread::Builder::new().stack_size(COMPILER_STACK_BYTES);
        let compiler = compiler.spawn(|| Self::compiled(template)).map_err(|error| {
            // A thread has a stack.
            let error = io::Error::new(io::ErrorKind::OutOfMemory, error);
            Error::new(ErrorKind::InvalidOperation, "no thread for the compiler").with_source(error)
        })?;
        compiler.join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn compiled(template: String) -> Result<Self, Error> {
        Self::try_new(template, |source| {
            let tree = parse(source, NAME, syntax())?;
            let mut generator = CodeGenerator::new(NAME, source);
            generator.compile_stmt(&tree);
            let (main, blocks) = generator.finish();
            let blocks = blocks.into_iter().map(|(name, block)| (name, replaced(source, &block))).collect();
            Ok(Compiled { main: replaced(source, &main), blocks })
        })
    }

    /// What the template writes.
    ///
    /// # Errors
    /// What goes wrong in it.
    pub fn render(&self, environment: &Environment<'_>, variables: Value) -> Result<String, Error> {
        let mut text = String::new();
        let Compiled { main, blocks } = self.borrow_dependent();
        // The engine panics on some templates that only a hostile hand would write.
        let outcome = caught(|| {
            eval(environment, main, variables, blocks, &mut make_string_output(&mut text), AutoEscape::None)
        });
        outcome.unwrap_or_else(|panic| Err(Error::new(ErrorKind::InvalidOperation, panic)))?;
        Ok(text)
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        self.borrow_owner()
    }

    /// Whether the template has `{% generation %}` blocks.
    pub fn has_blocks(&self) -> bool {
        self.source().contains(OPEN)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("source", self.borrow_owner()).finish()
    }
}

/// Jinja's marks, and line ends as transformers treats them.
fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("the marks are Jinja's own")
}

/// Requires expressions that a compiler that calls itself for each part can take.
fn check_length(template: &str) -> Result<(), Error> {
    let (mut words, mut branches) = (0, 0);
    for token in tokenize(template, false, syntax()) {
        match token? {
            (Token::VariableStart | Token::BlockStart, _) => words = 0,
            (Token::Ident("elif"), _) => branches += 1,
            _ => words += 1,
        }
        if words > MAX_WORDS || branches > MAX_BRANCHES {
            let message =
                format!("more than {MAX_WORDS} words in one expression, or {MAX_BRANCHES} times `elif`");
            return Err(Error::new(ErrorKind::SyntaxError, message));
        }
    }
    Ok(())
}

/// Turns `{% generation %}` blocks, which transformers knows and Jinja does not, into conditions that always hold; where
/// they are asked, [`replacement`] writes a mark.
fn with_marks(template: &str) -> String {
    static BLOCK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is constant")
    });
    let condition = |block: &Captures| {
        let (left, right) = (&block[1], &block[3]);
        match block.get(2) {
            None => format!("{{%{left} if {OPEN} {right}%}}"),
            Some(_) => format!("{{%{left} endif %}}{{% if {CLOSE} %}}{{% endif {right}%}}"),
        }
    };
    BLOCK.replace_all(template, condition).into_owned()
}

/// The same instructions with calls of our operators; jumps are moved to where their targets have gone.
fn replaced<'source>(source: &'source str, old: &Instructions<'source>) -> Instructions<'source> {
    let parts: Vec<_> = (0..).map_while(|at| old.get(at)).map(replacement).collect();
    let mut starts = vec![0];
    for part in &parts {
        starts.push(starts[starts.len() - 1] + part.len() as u32);
    }
    let mut new = Instructions::new(NAME, source);
    for (at, part) in parts.into_iter().enumerate() {
        // The engine keeps line numbers in 16 bits, too.
        let line = old.get_line(at as u32).map_or(1, |line| line.min(u16::MAX.into()) as u16);
        for instruction in part {
            new.add_with_line(moved(instruction, &starts), line);
        }
    }
    new
}

/// What stands for an instruction.
fn replacement<'source>(instruction: &Instruction<'source>) -> Vec<Instruction<'source>> {
    let call = |name, arguments| Instruction::ApplyFilter(name, Some(arguments), NOT_CACHED);
    let constant = |name: &str| Instruction::LoadConst(Value::from(name));
    let written = |mark: char| {
        let [mark, holds] = [Value::from(mark.to_string()), Value::from(true)].map(Instruction::LoadConst);
        vec![mark, Instruction::Emit, holds]
    };
    match instruction {
        Instruction::Add => vec![call("+", 2)],
        Instruction::Mul => vec![call("*", 2)],
        Instruction::Rem => vec![call("%", 2)],
        Instruction::StringConcat => vec![call("~", 2)],
        Instruction::Eq => vec![call("==", 2)],
        Instruction::Ne => vec![call("!=", 2)],
        Instruction::Lt => vec![call("<", 2)],
        Instruction::Lte => vec![call("<=", 2)],
        Instruction::Gt => vec![call(">", 2)],
        Instruction::Gte => vec![call(">=", 2)],
        Instruction::In => vec![call("in", 2)],
        // The engine keeps the type of these operators to itself, but not their names.
        Instruction::CompareAndPreserve(operator) => {
            vec![call(chained(&format!("{operator:?}")), 2), Instruction::UnpackList(2)]
        }
        Instruction::Slice => vec![call(SLICE, 4)],
        Instruction::BuildList(parts) => match parts.map(u16::try_from).transpose() {
            Ok(parts) => vec![Instruction::ApplyFilter(LIST, parts, NOT_CACHED)],
            Err(_) => vec![instruction.clone()],
        },
        Instruction::BuildTuple(parts) => match parts.map(u16::try_from).transpose() {
            Ok(parts) => vec![Instruction::ApplyFilter(TUPLE, parts, NOT_CACHED)],
            Err(_) => vec![instruction.clone()],
        },
        Instruction::BuildMap(pairs) => match u16::try_from(*pairs * 2) {
            Ok(parts) => vec![call(DICT, parts)],
            Err(_) => vec![instruction.clone()],
        },
        Instruction::ApplyFilter(name, Some(arguments), _) if !is_known(name) => {
            vec![constant(name), call(UNKNOWN, arguments + 1)]
        }
        Instruction::Lookup(OPEN) => written(BLOCK_MARKS[0]),
        Instruction::Lookup(CLOSE) => written(BLOCK_MARKS[1]),
        Instruction::PushLoop(_) => vec![call(ITERATED, 1), instruction.clone()],
        Instruction::SetAttr(name) => {
            vec![constant(name), call(SET_ATTRIBUTE, 3), Instruction::DiscardTop]
        }
        Instruction::GetAttr(name) if methods::is_method(name) => {
            vec![constant(name), call(ATTRIBUTE, 2)]
        }
        other => vec![other.clone()],
    }
}

/// An instruction whose target has moved.
fn moved<'source>(instruction: Instruction<'source>, starts: &[u32]) -> Instruction<'source> {
    let to = |target: u32| starts.get(target as usize).copied().unwrap_or(target);
    match instruction {
        Instruction::Jump(target) => Instruction::Jump(to(target)),
        Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(to(target)),
        Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(to(target)),
        Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(to(target)),
        Instruction::Iterate(target) => Instruction::Iterate(to(target)),
        Instruction::BuildMacro(name, target, flags) => Instruction::BuildMacro(name, to(target), flags),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::rendered;
    use super::*;

    #[test]
    fn jumps_reach_their_targets_behind_calls_of_ours() {
        let loops = "{% for a in [1, 2, 3] if a % 2 == 1 %}{% if a + 1 == 2 or a ~ 'x' == '3x' %}{{ a }}{% else %}-{% endif %}\
                     {% else %}none{% endfor %}{{ 'y' if 1 < 2 <= 2 else 'n' }}";
        assert_eq!(rendered(loops).unwrap(), "13y");
        let macros = "{% macro twice(x, y=2 * 3) %}{{ x + x ~ y }}{% if x == 'b' %}!{% endif %}{% endmacro %}\
                      {{ twice('a') }}{{ twice('b', y='c') }}";
        assert_eq!(rendered(macros).unwrap(), "aa6bbc!");
        let recursive = "{% set n = namespace(c=0) %}{% for x in [[1, [2]], [3]] recursive %}{% set n.c = n.c + 1 %}\
                         {% if x is sequence %}({{ '' ~ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}{{ n.c }}";
        assert_eq!(rendered(recursive).unwrap(), "(1(2))(3)6");
    }

    #[test]
    fn chains_of_comparisons_hold_if_each_of_them_does() {
        for (chain, holds) in
            [("1 < 2 < 3", true), ("1 < 3 < 2", false), ("1 == 1 != 2 >= 2", true), ("1 in [1] == [1]", true)]
        {
            let written = rendered(&format!("{{% set x = [] %}}{{{{ {chain} }}}}")).unwrap();
            assert_eq!(written, if holds { "True" } else { "False" }, "{chain}");
        }
    }

    #[test]
    fn generation_blocks_mark_what_they_write_and_change_nothing_else() {
        let marked = "{% for x in 'ab' %}{%- generation -%} {{ x }}\n{% endgeneration %}\n;{% endfor %}";
        let plain = "{% for x in 'ab' %}{%- if true -%} {{ x }}\n{% endif %}\n;{% endfor %}";
        let text = rendered(marked).unwrap();
        assert_eq!(text.replace(BLOCK_MARKS, ""), rendered(plain).unwrap());
        assert_eq!(text.replace(BLOCK_MARKS[0], "<").replace(BLOCK_MARKS[1], ">"), "<a\n>;<b\n>;");
        let set = "{% set n = namespace() %}{% generation %}{% set n.x = 1 %}{% endgeneration %}{{ n.x }}";
        assert!(rendered(set).unwrap().ends_with('1'));
    }

    #[test]
    fn only_a_template_with_blocks_has_some() {
        for (template, has_blocks) in [
            ("{% if add_generation_prompt %}{% endif %}", false),
            ("{% generation %}{% endgeneration %}", true),
            ("{%- generation -%}{%- endgeneration -%}", true),
        ] {
            assert_eq!(Program::compile(template).unwrap().has_blocks(), has_blocks);
        }
    }

    #[test]
    fn an_expression_without_end_is_refused() {
        for part in ["+x", "|abs", ".a", " and x", "~x", "()", "[0]", " if x else x", "**2"] {
            let expression = format!("{{{{ x{} }}}}", part.repeat(20_000));
            assert!(Program::compile(&expression).is_err(), "{part}");
        }
        for unary in ["not ", "-"] {
            assert!(Program::compile(&format!("{{{{ {}x }}}}", unary.repeat(20_000))).is_err());
        }
        assert!(
            Program::compile(&format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(20_000))).is_err()
        );
        let honest = format!("{{{{ 'a'{} }}}}", " ~ 'b'".repeat(1500));
        assert_eq!(rendered(&honest).map(|text| text.len()), Ok(1501));
    }

    #[test]
    fn an_error_has_its_line() {
        let wrong = Program::compile("a\nb\n{% if %}").unwrap_err();
        assert_eq!(wrong.line(), Some(3));
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(Program::compile(&nested).is_err());
        let message = rendered("\n\n{{ 'a' + x\n }}").unwrap_err();
        assert!(message.contains("chat_template:3"), "{message}");
    }
}
