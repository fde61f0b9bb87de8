//! WGSL kernels as CUDA C++: one source for every vendor. What the kernels are made of is translated, expression by expression; anything
//! else is an error that names it. The text needs `prelude.cuh` in front.
//!
//! Every expression that is computed gets a name where the shader computes it, so that loads and stores keep their order; expressions
//! that only say a place (pointers) are written where they are used.

use std::collections::HashMap;
use std::fmt::Write as _;

use naga::proc::TypeResolution;
use naga::valid::{FunctionInfo, GlobalUse, ModuleInfo};
use naga::{
    AddressSpace, ArraySize, BinaryOperator, Block, BuiltIn, Expression, Function, GatherMode, GlobalVariable, Handle,
    Literal, MathFunction, Module, RelationalFunction, Scalar, ScalarKind, Statement, StorageAccess, SwitchValue, Type,
    TypeInner, UnaryOperator,
};

/// The CUDA text of an entry point of a module whose overrides have their values. The kernel's parameters are the bindings that it uses, in
/// the order of their numbers: pointers to buffers, uniform structs by value.
///
/// # Errors
/// What cannot be translated.
pub(in crate::backend) fn kernel(module: &Module, info: &ModuleInfo, entry: &str) -> Result<String, String> {
    let index = module.entry_points.iter().position(|point| point.name == entry).ok_or("no such entry point")?;
    let mut writer = Writer { module, info, text: String::new() };
    let point = &module.entry_points[index];
    let used = writer.globals(info.get_entry_point(index));
    for (handle, ty) in module.types.iter() {
        if let TypeInner::Struct { .. } = ty.inner {
            writer.structure(handle)?;
        }
    }
    for &(_, variable) in used.iter().filter(|(_, variable)| variable.space == AddressSpace::WorkGroup) {
        let (ty, name) = (writer.ty(variable.ty)?, writer.global(variable));
        writeln!(writer.text, "__shared__ {ty} {name};").map_err(told)?;
    }
    // naga has functions before those that call them.
    for (handle, function) in module.functions.iter() {
        writer.function(function, &info[handle], Head::Device)?;
    }
    let size = point.workgroup_size.iter().product();
    writer.function(&point.function, info.get_entry_point(index), Head::Kernel { size })?;
    Ok(writer.text)
}

fn told(error: std::fmt::Error) -> String {
    error.to_string()
}

/// What stands in front of a function.
#[derive(Clone, Copy)]
enum Head {
    Device,
    Kernel {
        /// Threads of a block.
        size: u32,
    },
}

struct Writer<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
    text: String,
}

impl<'a> Writer<'a> {
    /// The global variables that a function and those that it calls use.
    fn globals(&self, info: &FunctionInfo) -> Vec<(Handle<GlobalVariable>, &'a GlobalVariable)> {
        let used = self.module.global_variables.iter().filter(|(handle, _)| info[*handle] != GlobalUse::empty());
        let mut used: Vec<_> = used.collect();
        used.sort_by_key(|(handle, variable)| (variable.binding.map(|binding| binding.binding), handle.index()));
        used
    }

    fn global(&self, variable: &GlobalVariable) -> String {
        format!("g_{}", variable.name.as_deref().unwrap_or_default())
    }

    fn ty(&self, handle: Handle<Type>) -> Result<String, String> {
        let ty = &self.module.types[handle];
        match (&ty.inner, &ty.name) {
            (TypeInner::Struct { .. }, Some(name)) => Ok(format!("{name}_{}", handle.index())),
            (inner, _) => self.inner(inner),
        }
    }

    fn inner(&self, inner: &TypeInner) -> Result<String, String> {
        Ok(match *inner {
            TypeInner::Scalar(scalar) => scalar_name(scalar)?.into(),
            TypeInner::Vector { size, scalar } => format!("vec<{}, {}>", size as u32, scalar_name(scalar)?),
            TypeInner::Array { base, size: ArraySize::Constant(n), .. } => format!("array<{}, {n}>", self.ty(base)?),
            TypeInner::Pointer { base, .. } => format!("{}*", self.ty(base)?),
            ref other => return Err(format!("the type {other:?}")),
        })
    }

    fn of(&self, info: &'a FunctionInfo, expression: Handle<Expression>) -> &'a TypeInner {
        info[expression].ty.inner_with(&self.module.types)
    }

    /// A struct laid out as WGSL has it.
    fn structure(&mut self, handle: Handle<Type>) -> Result<(), String> {
        let TypeInner::Struct { members, span } = &self.module.types[handle].inner else { return Ok(()) };
        if members.iter().any(|member| self.ty(member.ty).is_err()) {
            return Ok(()); // none that a kernel can pass on
        }
        let name = self.ty(handle)?;
        let (mut text, mut end, mut gaps) = (format!("struct {name} {{\n"), 0, 0);
        let mut pad = |text: &mut String, from: u32, to: u32| -> Result<(), String> {
            if to > from {
                gaps += 1;
                writeln!(text, "    unsigned char gap{gaps}[{}];", to - from).map_err(told)?;
            }
            Ok(())
        };
        for (index, member) in members.iter().enumerate() {
            pad(&mut text, end, member.offset)?;
            writeln!(text, "    {} {};", self.ty(member.ty)?, member_name(index, &member.name)).map_err(told)?;
            end = member.offset + self.module.types[member.ty].inner.size(self.module.to_ctx());
        }
        pad(&mut text, end, *span)?;
        writeln!(self.text, "{text}}};").map_err(told)?;
        writeln!(self.text, "static_assert(sizeof({name}) == {span}, \"laid out as WGSL has it\");").map_err(told)?;
        let (mut parts, mut sets) = (Vec::new(), String::new());
        for (index, member) in members.iter().enumerate() {
            parts.push(format!("{} m{index}", self.ty(member.ty)?));
            write!(sets, " s.{} = m{index};", member_name(index, &member.name)).map_err(told)?;
        }
        let parts = parts.join(", ");
        writeln!(self.text, "__device__ static inline {name} make_{name}({parts}) {{ {name} s;{sets} return s; }}")
            .map_err(told)
    }

    /// A buffer or uniform struct as a parameter of a function.
    fn parameter(&self, variable: &GlobalVariable, head: Head) -> Result<String, String> {
        let name = self.global(variable);
        match (variable.space, &self.module.types[variable.ty].inner) {
            (AddressSpace::Uniform, _) => {
                let by = if matches!(head, Head::Device) { "&" } else { "" };
                Ok(format!("const {}{by} {name}", self.ty(variable.ty)?))
            }
            (AddressSpace::Storage { access }, &TypeInner::Array { base, size: ArraySize::Dynamic, .. }) => {
                let constant = if access.contains(StorageAccess::STORE) { "" } else { "const " };
                Ok(format!("{constant}{}* __restrict__ {name}", self.ty(base)?))
            }
            (space, inner) => Err(format!("{name}, of {space:?} and type {inner:?}")),
        }
    }

    fn function(&mut self, function: &'a Function, info: &'a FunctionInfo, head: Head) -> Result<(), String> {
        let globals = self.globals(info);
        let bound = globals.iter().filter(|(_, variable)| variable.space != AddressSpace::WorkGroup);
        let mut parameters = Vec::new();
        for &(_, variable) in bound {
            match self.parameter(variable, head) {
                Ok(parameter) => parameters.push(parameter),
                // A function that only others' kernels call.
                Err(_) if matches!(head, Head::Device) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let mut builtins = String::new();
        for (index, argument) in function.arguments.iter().enumerate() {
            let ty = self.ty(argument.ty)?;
            match (&argument.binding, head) {
                (Some(naga::Binding::BuiltIn(builtin)), Head::Kernel { .. }) => {
                    writeln!(builtins, "    const {ty} a{index} = {};", builtin_value(*builtin)?).map_err(told)?;
                }
                _ => parameters.push(format!("{ty} a{index}")),
            }
        }
        let result = function.result.as_ref().map_or(Ok("void".into()), |result| self.ty(result.ty))?;
        let name = function.name.as_deref().unwrap_or_default();
        let front = match head {
            Head::Device => format!("__device__ static inline {result} f_{name}"),
            Head::Kernel { size } => format!("KERNEL({size}) {name}"),
        };
        writeln!(self.text, "{front}({}) {{\n{builtins}", parameters.join(", ")).map_err(told)?;
        let mut body = Body { writer: self, function, info, named: HashMap::new(), depth: 1 };
        for (handle, variable) in function.local_variables.iter() {
            let ty = body.writer.ty(variable.ty)?;
            let first = variable.init.map_or_else(|| Ok(format!("{ty}{{}}")), |init| body.value(init))?;
            body.line(&format!("{ty} v{} = {first};", handle.index()))?;
        }
        body.block(&function.body)?;
        writeln!(self.text, "}}\n").map_err(told)
    }

    fn literal(&self, literal: Literal) -> Result<String, String> {
        Ok(match literal {
            Literal::F32(v) if v.is_finite() => format!("{v:?}f"),
            Literal::F16(v) => format!("convert<half>({:?}f)", v.to_f32()),
            Literal::U32(v) => format!("{v}u"),
            Literal::I32(i32::MIN) => "(-2147483647 - 1)".into(),
            Literal::I32(v) => format!("({v})"),
            Literal::Bool(v) => v.to_string(),
            other => return Err(format!("the literal {other:?}")),
        })
    }

    /// A constant expression of the module.
    fn constant(&self, handle: Handle<Expression>) -> Result<String, String> {
        match &self.module.global_expressions[handle] {
            Expression::Literal(literal) => self.literal(*literal),
            Expression::Constant(constant) => self.constant(self.module.constants[*constant].init),
            Expression::ZeroValue(ty) => Ok(format!("{}{{}}", self.ty(*ty)?)),
            Expression::Splat { size, value } => Ok(format!("splat<{}>({})", *size as u32, self.constant(*value)?)),
            Expression::Compose { ty, components } => {
                let parts: Vec<String> =
                    components.iter().map(|&part| self.constant(part)).collect::<Result<_, _>>()?;
                self.composed(*ty, &parts)
            }
            other => Err(format!("the constant {other:?}")),
        }
    }

    fn composed(&self, ty: Handle<Type>, parts: &[String]) -> Result<String, String> {
        match self.module.types[ty].inner {
            TypeInner::Vector { size, scalar } => {
                Ok(format!("join<{}, {}>({})", size as u32, scalar_name(scalar)?, parts.join(", ")))
            }
            TypeInner::Array { .. } => Ok(format!("{}{{{{{}}}}}", self.ty(ty)?, parts.join(", "))),
            TypeInner::Struct { .. } => Ok(format!("make_{}({})", self.ty(ty)?, parts.join(", "))),
            ref other => Err(format!("a value of {other:?}")),
        }
    }
}

fn member_name(index: usize, name: &Option<String>) -> String {
    format!("{}_{index}", name.as_deref().unwrap_or_default())
}

fn scalar_name(scalar: Scalar) -> Result<&'static str, String> {
    match (scalar.kind, scalar.width) {
        (ScalarKind::Sint, 4) => Ok("int"),
        (ScalarKind::Uint, 4) => Ok("unsigned"),
        (ScalarKind::Float, 4) => Ok("float"),
        (ScalarKind::Float, 2) => Ok("half"),
        (ScalarKind::Bool, _) => Ok("bool"),
        _ => Err(format!("the scalar {scalar:?}")),
    }
}

/// What CUDA has for what WGSL hands an entry point.
fn builtin_value(builtin: BuiltIn) -> Result<&'static str, String> {
    Ok(match builtin {
        BuiltIn::WorkGroupId => "vec<3, unsigned>{blockIdx.x, blockIdx.y, blockIdx.z}",
        BuiltIn::NumWorkGroups => "vec<3, unsigned>{gridDim.x, gridDim.y, gridDim.z}",
        BuiltIn::LocalInvocationId => "vec<3, unsigned>{threadIdx.x, threadIdx.y, threadIdx.z}",
        BuiltIn::LocalInvocationIndex => "thread_index()",
        BuiltIn::GlobalInvocationId => "global_index()",
        BuiltIn::SubgroupSize => "32u",
        BuiltIn::SubgroupInvocationId => "thread_index() % 32u",
        other => return Err(format!("the builtin {other:?}")),
    })
}

/// The body of a function that is being written.
struct Body<'w, 'a> {
    writer: &'w mut Writer<'a>,
    function: &'a Function,
    info: &'a FunctionInfo,
    /// Expressions that were computed.
    named: HashMap<Handle<Expression>, String>,
    depth: usize,
}

impl<'a> Body<'_, 'a> {
    fn line(&mut self, text: &str) -> Result<(), String> {
        writeln!(self.writer.text, "{:1$}{text}", "", 4 * self.depth).map_err(told)
    }

    fn of(&self, expression: Handle<Expression>) -> &'a TypeInner {
        self.writer.of(self.info, expression)
    }

    fn inside(&mut self, block: &'a Block) -> Result<(), String> {
        self.depth += 1;
        self.block(block)?;
        self.depth -= 1;
        Ok(())
    }

    fn block(&mut self, block: &'a Block) -> Result<(), String> {
        block.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<(), String> {
        match statement {
            Statement::Emit(range) => range.clone().try_for_each(|handle| self.emit(handle)),
            Statement::Block(block) => {
                self.line("{")?;
                self.inside(block)?;
                self.line("}")
            }
            Statement::If { condition, accept, reject } => {
                let condition = self.value(*condition)?;
                self.line(&format!("if ({condition}) {{"))?;
                self.inside(accept)?;
                if !reject.is_empty() {
                    self.line("} else {")?;
                    self.inside(reject)?;
                }
                self.line("}")
            }
            Statement::Switch { selector, cases } => {
                let selector = self.value(*selector)?;
                self.line(&format!("switch ({selector}) {{"))?;
                for case in cases {
                    let label = match case.value {
                        SwitchValue::I32(v) => format!("case {v}: {{"),
                        SwitchValue::U32(v) => format!("case {v}u: {{"),
                        SwitchValue::Default => "default: {".into(),
                    };
                    self.line(&label)?;
                    self.inside(&case.body)?;
                    self.line(if case.fall_through { "}" } else { "break; }" })?;
                }
                self.line("}")
            }
            Statement::Loop { body, continuing, break_if } => self.repeat(body, continuing, *break_if),
            Statement::Break => self.line("break;"),
            Statement::Continue => self.line("continue;"),
            Statement::Return { value: None } => self.line("return;"),
            Statement::Return { value: Some(value) } => {
                let value = self.value(*value)?;
                self.line(&format!("return {value};"))
            }
            Statement::ControlBarrier(_) => self.line("__syncthreads();"),
            Statement::Store { pointer, value } => {
                let (place, value) = (self.place(*pointer)?, self.value(*value)?);
                self.line(&format!("{place} = {value};"))
            }
            Statement::Call { function, arguments, result } => {
                let callee = &self.writer.module.functions[*function];
                let globals = self.writer.globals(&self.writer.info[*function]);
                let bound = globals.iter().filter(|(_, variable)| variable.space != AddressSpace::WorkGroup);
                let mut given: Vec<String> = bound.map(|(_, variable)| self.writer.global(variable)).collect();
                for &argument in arguments {
                    given.push(match self.of(argument) {
                        TypeInner::Pointer { .. } => format!("&{}", self.place(argument)?),
                        _ => self.value(argument)?,
                    });
                }
                let call = format!("f_{}({})", callee.name.as_deref().unwrap_or_default(), given.join(", "));
                match result {
                    Some(result) => self.name(*result, &call),
                    None => self.line(&format!("{call};")),
                }
            }
            Statement::SubgroupGather { mode, argument, result } => {
                let from = match mode {
                    GatherMode::BroadcastFirst => "0u".into(),
                    GatherMode::Broadcast(lane) | GatherMode::Shuffle(lane) => self.value(*lane)?,
                    other => return Err(format!("the gathering {other:?}")),
                };
                let call = format!("from_lane({}, {from})", self.value(*argument)?);
                self.name(*result, &call)
            }
            other => Err(format!("the statement {other:?}")),
        }
    }

    /// A loop. What comes after each round is in front of the next one where a round may be cut short.
    fn repeat(
        &mut self,
        body: &'a Block,
        continuing: &'a Block,
        break_if: Option<Handle<Expression>>,
    ) -> Result<(), String> {
        let first = format!("first{}", self.named.len());
        let cut_short = continues(body) && !(continuing.is_empty() && break_if.is_none());
        if cut_short {
            self.line(&format!("bool {first} = true;"))?;
        }
        self.line("while (true) {")?;
        self.depth += 1;
        if cut_short {
            self.line(&format!("if (!{first}) {{"))?;
            self.depth += 1;
            self.after_round(continuing, break_if)?;
            self.depth -= 1;
            self.line("}")?;
            self.line(&format!("{first} = false;"))?;
        }
        self.block(body)?;
        if !cut_short {
            self.after_round(continuing, break_if)?;
        }
        self.depth -= 1;
        self.line("}")
    }

    fn after_round(&mut self, continuing: &'a Block, break_if: Option<Handle<Expression>>) -> Result<(), String> {
        self.block(continuing)?;
        match break_if {
            Some(condition) => {
                let condition = self.value(condition)?;
                self.line(&format!("if ({condition}) break;"))
            }
            None => Ok(()),
        }
    }

    /// Computes an expression, unless it only says a place.
    fn emit(&mut self, handle: Handle<Expression>) -> Result<(), String> {
        match self.of(handle) {
            TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. } => Ok(()),
            _ => {
                let text = self.computed(handle)?;
                self.name(handle, &text)
            }
        }
    }

    fn name(&mut self, handle: Handle<Expression>, text: &str) -> Result<(), String> {
        let ty = match &self.info[handle].ty {
            TypeResolution::Handle(ty) => self.writer.ty(*ty)?,
            TypeResolution::Value(inner) => self.writer.inner(inner)?,
        };
        let known = self.function.named_expressions.get(&handle);
        let name = format!("{}_{}", known.map_or("e", |name| name.as_str()), handle.index());
        self.line(&format!("const {ty} {name} = {text};"))?;
        self.named.insert(handle, name);
        Ok(())
    }

    /// The place that a pointer says.
    fn place(&mut self, handle: Handle<Expression>) -> Result<String, String> {
        match &self.function.expressions[handle] {
            Expression::GlobalVariable(variable) => {
                Ok(self.writer.global(&self.writer.module.global_variables[*variable]))
            }
            Expression::LocalVariable(variable) => Ok(format!("v{}", variable.index())),
            Expression::FunctionArgument(index) => Ok(format!("(*a{index})")),
            Expression::Access { base, index } => {
                let (index, of) = (self.value(*index)?, self.of(*base));
                let base = self.place(*base)?;
                self.element(&base, of, &index)
            }
            Expression::AccessIndex { base, index } => {
                let of = self.of(*base);
                let base = self.place(*base)?;
                self.part(&base, of, *index)
            }
            other => Err(format!("the place {other:?}")),
        }
    }

    /// An element of an array or vector, or of what a pointer to one says.
    fn element(&self, base: &str, of: &TypeInner, index: &str) -> Result<String, String> {
        let types = &self.writer.module.types;
        match of {
            TypeInner::Pointer { base: pointed, .. } => self.element(base, &types[*pointed].inner, index),
            TypeInner::Array { .. } => Ok(format!("{base}[{index}]")),
            TypeInner::Vector { .. } | TypeInner::ValuePointer { size: Some(_), .. } => {
                Ok(format!("at({base}, {index})"))
            }
            other => Err(format!("an element of {other:?}")),
        }
    }

    /// A member of a struct, a component of a vector, an element of an array.
    fn part(&self, base: &str, of: &TypeInner, index: u32) -> Result<String, String> {
        let types = &self.writer.module.types;
        match of {
            TypeInner::Pointer { base: pointed, .. } => self.part(base, &types[*pointed].inner, index),
            TypeInner::Struct { members, .. } => {
                let index = index as usize;
                Ok(format!("{base}.{}", member_name(index, &members[index].name)))
            }
            TypeInner::Array { .. } => Ok(format!("{base}[{index}]")),
            TypeInner::Vector { .. } | TypeInner::ValuePointer { size: Some(_), .. } => {
                Ok(format!("{base}.{}", component(index as usize)?))
            }
            other => Err(format!("a part of {other:?}")),
        }
    }

    /// A value: the name of what was computed, or what needs no computing.
    fn value(&mut self, handle: Handle<Expression>) -> Result<String, String> {
        match self.named.get(&handle) {
            Some(name) => Ok(name.clone()),
            None => self.computed(handle),
        }
    }

    fn values(&mut self, handles: impl IntoIterator<Item = Handle<Expression>>) -> Result<Vec<String>, String> {
        handles.into_iter().map(|handle| self.value(handle)).collect()
    }

    fn computed(&mut self, handle: Handle<Expression>) -> Result<String, String> {
        let expression = &self.function.expressions[handle];
        Ok(match expression {
            Expression::Literal(literal) => self.writer.literal(*literal)?,
            Expression::Constant(constant) => self.writer.constant(self.writer.module.constants[*constant].init)?,
            Expression::ZeroValue(ty) => format!("{}{{}}", self.writer.ty(*ty)?),
            Expression::Compose { ty, components } => {
                let parts = self.values(components.iter().copied())?;
                self.writer.composed(*ty, &parts)?
            }
            Expression::Access { base, index } => {
                let (base_text, index) = (self.value(*base)?, self.value(*index)?);
                self.element(&base_text, self.of(*base), &index)?
            }
            Expression::AccessIndex { base, index } => {
                let base_text = self.value(*base)?;
                self.part(&base_text, self.of(*base), *index)?
            }
            Expression::Splat { size, value } => format!("splat<{}>({})", *size as u32, self.value(*value)?),
            Expression::Swizzle { size, vector, pattern } => {
                let vector_text = self.value(*vector)?;
                let TypeInner::Vector { scalar, .. } = self.of(*vector) else { return Err("a swizzle".into()) };
                let components = pattern[..*size as usize].iter();
                let parts: Vec<String> = components
                    .map(|&part| Ok(format!("{vector_text}.{}", component(part as usize)?)))
                    .collect::<Result<_, String>>()?;
                format!("vec<{}, {}>{{{}}}", *size as u32, scalar_name(*scalar)?, parts.join(", "))
            }
            Expression::FunctionArgument(index) => format!("a{index}"),
            Expression::Load { pointer } => self.place(*pointer)?,
            Expression::Unary { op, expr } => {
                let value = self.value(*expr)?;
                match (op, scalar_of(self.of(*expr))) {
                    (UnaryOperator::Negate, Some(ScalarKind::Sint)) => {
                        format!("wrapping_sub(splat_like({value}), {value})")
                    }
                    (UnaryOperator::Negate, _) => format!("-{value}"),
                    (UnaryOperator::LogicalNot, _) => format!("!{value}"),
                    (UnaryOperator::BitwiseNot, _) => format!("~{value}"),
                }
            }
            Expression::Binary { op, left, right } => {
                let kind = scalar_of(self.of(*left));
                let (left, right) = (self.value(*left)?, self.value(*right)?);
                binary(*op, kind, &left, &right)
            }
            Expression::Select { condition, accept, reject } => {
                let [choice, accept, reject] = [self.value(*condition)?, self.value(*accept)?, self.value(*reject)?];
                match self.of(*condition) {
                    TypeInner::Vector { .. } => format!("select({choice}, {accept}, {reject})"),
                    _ => format!("({choice} ? {accept} : {reject})"),
                }
            }
            Expression::Relational { fun, argument } => {
                let argument = self.value(*argument)?;
                match fun {
                    RelationalFunction::All => format!("all({argument})"),
                    RelationalFunction::Any => format!("any({argument})"),
                    other => return Err(format!("the function {other:?}")),
                }
            }
            Expression::Math { fun, arg, arg1, arg2, arg3 } => {
                let given = self.values([Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten())?;
                format!("{}({})", math(*fun)?, given.join(", "))
            }
            Expression::As { expr, kind, convert } => {
                let value = self.value(*expr)?;
                let width = match (*convert, scalar_of_width(self.of(*expr))) {
                    (Some(width), _) => width,
                    (None, Some(width)) => width,
                    (None, None) => return Err("a bit cast of what has no width".into()),
                };
                let to = scalar_name(Scalar { kind: *kind, width })?;
                format!("{}<{to}>({value})", if convert.is_some() { "convert" } else { "bitcast" })
            }
            other => return Err(format!("the expression {other:?}")),
        })
    }
}

fn component(index: usize) -> Result<&'static str, String> {
    ["x", "y", "z", "w"].get(index).copied().ok_or_else(|| format!("component {index}"))
}

fn scalar_of(inner: &TypeInner) -> Option<ScalarKind> {
    inner.scalar().map(|scalar| scalar.kind)
}

fn scalar_of_width(inner: &TypeInner) -> Option<u8> {
    inner.scalar().map(|scalar| scalar.width)
}

/// Signed sums and products wrap in WGSL, and are undefined in C++ where they do.
fn binary(op: BinaryOperator, kind: Option<ScalarKind>, left: &str, right: &str) -> String {
    let operator = match op {
        BinaryOperator::Add if kind == Some(ScalarKind::Sint) => return format!("wrapping_add({left}, {right})"),
        BinaryOperator::Subtract if kind == Some(ScalarKind::Sint) => return format!("wrapping_sub({left}, {right})"),
        BinaryOperator::Multiply if kind == Some(ScalarKind::Sint) => return format!("wrapping_mul({left}, {right})"),
        BinaryOperator::Modulo if kind == Some(ScalarKind::Float) => return format!("fmod({left}, {right})"),
        BinaryOperator::Add => "+",
        BinaryOperator::Subtract => "-",
        BinaryOperator::Multiply => "*",
        BinaryOperator::Divide => "/",
        BinaryOperator::Modulo => "%",
        BinaryOperator::Equal => "==",
        BinaryOperator::NotEqual => "!=",
        BinaryOperator::Less => "<",
        BinaryOperator::LessEqual => "<=",
        BinaryOperator::Greater => ">",
        BinaryOperator::GreaterEqual => ">=",
        BinaryOperator::And => "&",
        BinaryOperator::ExclusiveOr => "^",
        BinaryOperator::InclusiveOr => "|",
        BinaryOperator::LogicalAnd => "&&",
        BinaryOperator::LogicalOr => "||",
        BinaryOperator::ShiftLeft => "<<",
        BinaryOperator::ShiftRight => ">>",
    };
    format!("{left} {operator} {right}")
}

/// The prelude's name of a function.
fn math(fun: MathFunction) -> Result<&'static str, String> {
    Ok(match fun {
        MathFunction::Abs => "abs_of",
        MathFunction::Min => "min_of",
        MathFunction::Max => "max_of",
        MathFunction::Clamp => "clamp_of",
        MathFunction::Floor => "floor_of",
        MathFunction::Ceil => "ceil_of",
        MathFunction::Exp => "exp_of",
        MathFunction::Exp2 => "exp2_of",
        MathFunction::Log => "log_of",
        MathFunction::Log2 => "log2_of",
        MathFunction::Pow => "pow_of",
        MathFunction::Dot => "dot",
        MathFunction::Sign => "sign_of",
        MathFunction::Fma => "fma_of",
        MathFunction::Mix => "mix_of",
        MathFunction::Sqrt => "sqrt_of",
        MathFunction::InverseSqrt => "inverse_sqrt_of",
        MathFunction::Tanh => "tanh_of",
        other => return Err(format!("the function {other:?}")),
    })
}

/// Whether a loop's body cuts its rounds short: not the bodies of loops in it.
fn continues(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Continue => true,
        Statement::Block(block) => continues(block),
        Statement::If { accept, reject, .. } => continues(accept) || continues(reject),
        Statement::Switch { cases, .. } => cases.iter().any(|case| continues(&case.body)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use rayon::prelude::*;

    use super::*;
    use crate::backend::wgpu::dispatch::Dispatch;
    use crate::backend::wgpu::translate::{module, pipelines};

    /// Name and CUDA text of every pipeline that any case asks for, but those for Vulkan in software, which read textures.
    fn texts() -> Vec<(String, String)> {
        let (mut pipelines, all) = (pipelines(), 300);
        pipelines.retain(|dispatch| !dispatch.kernel.source.contains("texture_storage_2d"));
        assert!(pipelines.len() > all, "only {} pipelines", pipelines.len());
        let translate = |(number, dispatch): (usize, &Dispatch)| {
            let (module, info) = module(dispatch);
            let name = format!("{number} {} {:?}", dispatch.kernel.name, dispatch.overrides);
            let text =
                kernel(&module, &info, dispatch.kernel.entry).unwrap_or_else(|e| panic!("{name}: no CUDA for {e}"));
            (name, text)
        };
        pipelines.par_iter().enumerate().map(translate).collect()
    }

    /// The texts are C++, as a compiler for the processor sees it, where there is one.
    #[test]
    fn every_kernel_is_cuda() {
        let mut file = format!("{}\n{}", include_str!("host.h"), include_str!("prelude.cuh"));
        let texts = texts();
        for (number, (name, text)) in texts.iter().enumerate() {
            write!(file, "\n// {name}\nnamespace n{number} {{\n{text}}}\n").unwrap();
        }
        let checked = |text: &str| -> Option<Result<(), String>> {
            let mut command = Command::new("c++");
            command.args(["-std=c++17", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused"]);
            let piped = command.args(["-x", "c++", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut process = piped.spawn().ok()?;
            let _ = process.stdin.take()?.write_all(text.as_bytes());
            let output = process.wait_with_output().unwrap();
            Some(output.status.success().then_some(()).ok_or(String::from_utf8_lossy(&output.stderr).into()))
        };
        let Some(verdict) = checked(&file) else { return println!("not checked: there is no C++ compiler") };
        verdict.unwrap_or_else(|message| panic!("{message}"));
        assert!(checked(&file.replace("exp2f", "unknown")).unwrap().is_err(), "a compiler takes everything");
        println!("{} kernels are C++", texts.len());
    }

    /// NVRTC, by which a GPU's driver gets them, for the architectures from Turing to Hopper.
    #[test]
    #[ignore = "needs `tests/compilers/install nvrtc`"]
    fn nvrtc_takes_every_kernel() {
        let texts = texts();
        let wrong = ("wrong".to_string(), "KERNEL(1) wrong() { unknown(); }".to_string());
        let prelude = include_str!("prelude.cuh");
        let request = |(_, text): &(String, String)| serde_json::json!(format!("{prelude}\n{text}")).to_string();
        let requests: Vec<String> = [wrong].iter().chain(&texts).map(request).collect();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compilers/nvrtc.py");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/compilers/nvrtc");
        let mut command = Command::new("python3");
        command.args([script, folder, "sm_75", "sm_80", "sm_90"]).env("LD_LIBRARY_PATH", folder);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(requests.join("\n").as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "nvrtc.py: {}", output.status);
        let lines = String::from_utf8(output.stdout).unwrap();
        let answers: Vec<Option<String>> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [Some(wrong), answers @ ..] = &answers[..] else { panic!("NVRTC takes an unknown function") };
        assert!(wrong.contains("unknown"), "{wrong}");
        assert_eq!(answers.len(), texts.len());
        let told =
            |((name, _), answer): (&(String, String), &Option<String>)| answer.as_ref().map(|e| format!("{name}: {e}"));
        let problems: Vec<String> = texts.iter().zip(answers).filter_map(told).collect();
        assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
        println!("NVRTC compiles {} kernels, each for three architectures", answers.len());
    }
}
