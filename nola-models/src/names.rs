//! Names of the language models' parameters, as tables: ours, and those of Hugging Face.

use std::borrow::Cow;

use nola_core::folder::peft::{self, ForeignModule, Layout};

use crate::checkpoint::{Part, Shares, Source};

/// How a model's modules are called in Hugging Face's files.
pub(crate) struct Names {
    /// Before every name but the head's; files of the bare model leave it out.
    pub(crate) prefix: &'static str,
    /// What our `blocks` are called.
    pub(crate) blocks: &'static str,
    /// Modules of a block.
    pub(crate) in_block: Cow<'static, [Name]>,
    /// All other modules but the head.
    pub(crate) outside: &'static [Name],
}

/// One module of ours with its name there.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) ours: &'static str,
    pub(crate) theirs: &'static str,
    pub(crate) kind: Kind,
}

/// How a weight is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// As we have it.
    Plain,
    /// As `[d_out, d_in]`.
    Transposed,
    /// As some columns of a fused `[d_in, d_out]`.
    Columns(Shares),
    /// As some rows of a fused `[d_out, d_in]`.
    Rows(Shares),
}

/// The untied head, which takes no prefix.
const HEAD: Name = Name { ours: "head", theirs: "lm_head", kind: Kind::Transposed };

impl Names {
    /// Where a module of ours is kept, such as `blocks.0.attention.query`; the names are the module's.
    ///
    /// # Panics
    /// If there is no such module: the table is then incomplete.
    pub(crate) fn module(&self, path: &str) -> Source {
        self.find(path).unwrap_or_else(|| panic!("no name is known for the module `{path}`"))
    }

    /// Where transformers, and so PEFT, keeps a module of ours; both generations call it the same.
    ///
    /// # Panics
    /// If there is no such module.
    pub(crate) fn foreign_module(&self, path: &str) -> ForeignModule {
        let Source { mut names, part, transposed } = self.module(path);
        let name = names.swap_remove(0);
        let part = match part {
            Part::Whole | Part::LastAxes(_) => peft::Part::Whole,
            Part::Rows(shares) | Part::Columns(shares) => peft::Part::Outputs(shares),
        };
        let layout = if transposed { Layout::Linear } else { Layout::Conv1d };
        ForeignModule { names: [name.clone(), name], part, part_before: part, layout }
    }

    /// Where a parameter of ours is kept, such as `blocks.0.attention.query.weight`.
    ///
    /// # Panics
    /// If there is no such parameter: the table is then incomplete.
    pub(crate) fn parameter(&self, path: &str) -> Source {
        let (module, ours) = path.rsplit_once('.').expect("every parameter lies in a module");
        let leaf = if matches!(ours, "weight" | "gamma") { "weight" } else { "bias" };
        let Source { names, part, transposed } = self.module(module);
        let names = names.into_iter().map(|name| format!("{name}.{leaf}")).collect();
        Source { names, part, transposed: transposed && leaf == "weight" }
    }

    /// The same of a model whose token embedding is its head too, and may be stored under the head's name.
    pub(crate) fn tied_parameter(&self, path: &str) -> Source {
        let mut source = self.parameter(path);
        if path == "tokens.weight" {
            source.names.push(format!("{}.weight", HEAD.theirs));
        }
        source
    }

    fn find(&self, path: &str) -> Option<Source> {
        if path == HEAD.ours {
            return Some(HEAD.source(vec![HEAD.theirs.to_string()]));
        }
        let (name, theirs) = match path.strip_prefix("blocks.") {
            Some(inside) => {
                let (number, ours) = inside.split_once('.')?;
                let name = named(&self.in_block, ours)?;
                (name, format!("{}.{number}.{}", self.blocks, name.theirs))
            }
            None => {
                let name = named(self.outside, path)?;
                (name, name.theirs.to_string())
            }
        };
        Some(name.source(vec![format!("{}{theirs}", self.prefix), theirs]))
    }
}

fn named<'n>(table: &'n [Name], ours: &str) -> Option<&'n Name> {
    table.iter().find(|name| name.ours == ours)
}

impl Name {
    fn source(&self, names: Vec<String>) -> Source {
        match self.kind {
            Kind::Plain => Source { names, part: Part::Whole, transposed: false },
            Kind::Transposed => Source { names, part: Part::Whole, transposed: true },
            Kind::Columns(shares) => Source { names, part: Part::Columns(shares), transposed: false },
            Kind::Rows(shares) => Source { names, part: Part::Rows(shares), transposed: true },
        }
    }
}
