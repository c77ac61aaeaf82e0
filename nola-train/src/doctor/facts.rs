//! What a device says of itself: driver, memory, limits, number types.

use burn::tensor::{DType, Device};
use nola_models::WeightDtype;
use serde::Serialize;

use super::Subject;
use crate::bench::machine::cpu_name;
use crate::device::OpenDevice;

/// The largest things that a GPU takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Limits {
    /// Largest buffer that a kernel can be given.
    pub(super) largest_buffer_bytes: u64,
    /// Buffers of a kernel.
    buffers_per_kernel: u32,
    shared_memory_bytes: usize,
    /// Units of a workgroup.
    units_per_workgroup: u32,
}

/// Number types that a device stores and computes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DtypesThere {
    pub(super) f32: bool,
    pub(super) bf16: bool,
    pub(super) f16: bool,
    pub(super) int8: bool,
}

impl DtypesThere {
    pub(super) fn of(device: &Device) -> Self {
        let has = |dtype: WeightDtype| dtype.is_supported_by(device);
        Self {
            f32: has(WeightDtype::F32),
            bf16: has(WeightDtype::Bf16),
            f16: has(WeightDtype::F16),
            int8: device.supports_dtype(DType::I8),
        }
    }

    /// Names of those that there are.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let all = [("f32", self.f32), ("bf16", self.bf16), ("f16", self.f16), ("int8", self.int8)];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

/// The name that the part has, without that of the choice.
pub(super) fn part_name(subject: Subject, open: &OpenDevice) -> String {
    match subject {
        Subject::Cpu => cpu_name(),
        Subject::Gpu(_) => open.name.split_once(' ').map_or(String::new(), |(_, part)| part.to_owned()),
    }
}

/// A driver, and the part that it drives.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    part: String,
    driver: String,
}

/// The driver of a part.
pub(super) fn driver_of(part: &str, drivers: Vec<Driver>) -> Option<String> {
    drivers.into_iter().find(|driver| driver.part == part).map(|driver| driver.driver)
}

/// The drivers of all parts that graphics interfaces reach.
#[cfg(feature = "wgpu")]
pub(super) fn drivers() -> Vec<Driver> {
    use cubecl::wgpu::wgpu::{Adapter, Backends, Instance, InstanceDescriptor};
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    let instance =
        Instance::new(InstanceDescriptor { backends, ..InstanceDescriptor::new_without_display_handle() });
    let described = |adapter: &Adapter| {
        let info = adapter.get_info();
        let driver = format!("{} {} ({:?})", info.driver, info.driver_info, info.backend);
        Driver { part: info.name, driver: driver.split_whitespace().collect::<Vec<_>>().join(" ") }
    };
    cubecl::future::block_on(instance.enumerate_adapters(backends)).iter().map(described).collect()
}

/// The drivers of all parts that graphics interfaces reach.
#[cfg(not(feature = "wgpu"))]
pub(super) fn drivers() -> Vec<Driver> {
    Vec::new()
}

/// The limits of a GPU; a CPU has none.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) fn limits(device: &Device) -> Option<Limits> {
    use burn::backend::DispatchDevice;
    let inner = device.clone().inner();
    let DispatchDevice::Cube(cube) = inner.as_dispatch() else { return None };
    let client = cube.client();
    let (memory, hardware) = (&client.properties().memory, &client.properties().hardware);
    Some(Limits {
        largest_buffer_bytes: memory.max_page_size,
        buffers_per_kernel: hardware.max_bindings,
        shared_memory_bytes: hardware.max_shared_memory_size,
        units_per_workgroup: hardware.max_units_per_cube,
    })
}

/// The limits of a GPU; a CPU has none.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub(super) fn limits(_device: &Device) -> Option<Limits> {
    None
}

/// The memory of a GPU, if its driver says.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) fn memory_bytes(device: &Device) -> Option<u64> {
    use burn::backend::DispatchDevice;
    let inner = device.clone().inner();
    let DispatchDevice::Cube(cube) = inner.as_dispatch() else { return None };
    cube.client().properties().memory.max_memory()
}

/// The memory of a GPU, if its driver says.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub(super) fn memory_bytes(_device: &Device) -> Option<u64> {
    None
}
