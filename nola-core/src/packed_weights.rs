//! The packed weights of a module, by walks over its parameters.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Int, Tensor};

use crate::base_weight::weight_path_of_words;

/// How burn's walks call the layers whose weights can be packed; burn's own have no words.
const LINEAR: &str = "Struct:Linear";

/// The words of a packed weight, as a walk meets them.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    pub(crate) id: ParamId,
    pub(crate) words: Tensor<1, Int>,
}

/// Finds the words of packed weights, by the parameters that stand for them.
#[derive(Default)]
struct FindWords {
    path: Vec<String>,
    containers: Vec<String>,
    weights: BTreeMap<String, ParamId>,
    found: BTreeMap<ParamId, Words>,
}

impl ModuleVisitor for FindWords {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.weights.insert(self.path.join("."), param.id);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        if self.containers.last().is_none_or(|container| container != LINEAR) {
            return;
        }
        let weight = weight_path_of_words(&self.path.join("."));
        let Some(&weight) = weight.and_then(|path| self.weights.get(&path)) else { return };
        if param.lazy_shape().num_elements() > 1 {
            let words = Words { id: param.id, words: param.val().reshape([-1]) };
            self.found.insert(weight, words);
        }
    }
}

struct FindPackable {
    path: Vec<String>,
    containers: Vec<String>,
    weights: BTreeSet<String>,
}

impl ModuleVisitor for FindPackable {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        if self.containers.last().is_none_or(|container| container != LINEAR) {
            return;
        }
        self.weights.extend(weight_path_of_words(&self.path.join(".")));
    }
}

/// Paths of the weights of `module` that can be packed, as those of [`Linear`](crate::Linear) can.
pub(crate) fn packable_weights<M: Module>(module: &M) -> BTreeSet<String> {
    let mut walk = FindPackable { path: Vec::new(), containers: Vec::new(), weights: BTreeSet::new() };
    module.visit(&mut walk);
    walk.weights
}

pub(crate) fn find_words<M: Module>(module: &M) -> BTreeMap<ParamId, Words> {
    let mut walk = FindWords::default();
    module.visit(&mut walk);
    walk.found
}

/// The words of the packed weights of `module`, by the parameters that stand for them.
pub fn packed_words<M: Module>(module: &M) -> BTreeMap<ParamId, Tensor<1, Int>> {
    find_words(module).into_iter().map(|(id, found)| (id, found.words)).collect()
}
