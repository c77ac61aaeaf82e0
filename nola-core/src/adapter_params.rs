//! The parameters of adapters, on a walk through a model that they are attached to.

use std::any::Any;
use std::collections::BTreeMap;

use burn::module::{ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Whether `path` is that of a parameter of an adapter.
pub(crate) fn is_adapter(path: &str) -> bool {
    path.contains(".weight.adapter.")
}

/// A parameter of an adapter.
#[derive(Debug, Clone)]
pub(crate) enum AdapterParam {
    Vector(Param<Tensor<1>>),
    Matrix(Param<Tensor<2>>),
}

impl AdapterParam {
    fn of<const D: usize>(param: &Param<Tensor<D>>) -> Option<Self> {
        let param: &dyn Any = param;
        let vector = || Some(Self::Vector(param.downcast_ref::<Param<Tensor<1>>>()?.clone()));
        let matrix = || Some(Self::Matrix(param.downcast_ref::<Param<Tensor<2>>>()?.clone()));
        vector().or_else(matrix)
    }

    fn count(&self) -> usize {
        match self {
            Self::Vector(param) => param.dims()[0],
            Self::Matrix(param) => param.dims().iter().product(),
        }
    }

    pub(crate) fn vector(self) -> Param<Tensor<1>> {
        match self {
            Self::Vector(param) => param,
            Self::Matrix(_) => panic!("a vector of an adapter"),
        }
    }

    pub(crate) fn matrix(self) -> Param<Tensor<2>> {
        match self {
            Self::Matrix(param) => param,
            Self::Vector(_) => panic!("a matrix of an adapter"),
        }
    }
}

/// The parameters of adapters by path.
#[derive(Default)]
pub(crate) struct AdapterParams {
    path: Vec<String>,
    params: BTreeMap<String, AdapterParam>,
}

impl AdapterParams {
    /// Numbers of all of them.
    pub(crate) fn count(&self) -> usize {
        self.params.values().map(AdapterParam::count).sum()
    }

    /// Those at the weight `path`, by their names within the adapter.
    pub(crate) fn at(&self, path: &str) -> BTreeMap<String, AdapterParam> {
        let prefix = format!("{path}.adapter.");
        let named = |(path, param): (&String, &AdapterParam)| {
            Some((path.strip_prefix(&prefix)?.to_owned(), param.clone()))
        };
        self.params.iter().filter_map(named).collect()
    }
}

impl ModuleVisitor for AdapterParams {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if is_adapter(&path) {
            let param = AdapterParam::of(param).expect("adapters have vectors and matrices");
            self.params.insert(path, param);
        }
    }
}
