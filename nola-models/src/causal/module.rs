//! [`CausalLm`] as a module: each call goes through to the model inside.
//!
//! Written by hand, since the derived implementation would put the variant's name before every parameter path.

use std::fmt;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

use super::{CausalLm, map_any, of_any};

impl Module for CausalLm {
    fn collect_devices(&self, devices: Devices) -> Devices {
        of_any!(self, model => model.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        map_any!(self, model => model.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        map_any!(self, model => model.to_device(device))
    }

    fn train(self) -> Self {
        map_any!(self, model => model.train())
    }

    fn valid(&self) -> Self {
        map_any!(self, model => model.valid())
    }

    fn materialize(self) -> Self {
        map_any!(self, model => model.materialize())
    }

    fn num_params(&self) -> usize {
        of_any!(self, model => Module::num_params(model))
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        of_any!(self, model => model.visit(visitor))
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        map_any!(self, model => model.map(mapper))
    }
}

impl ModuleDisplayDefault for CausalLm {
    fn content(&self, content: Content) -> Option<Content> {
        of_any!(self, model => model.content(content))
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for CausalLm {}

impl fmt::Display for CausalLm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(Default::default()))
    }
}
