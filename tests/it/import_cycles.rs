//! No two source files import each other, directly or through others, except as the rules below allow.
//!
//! The test finds imports by these rules:
//! - A path is in a `use`, or in the code after `crate::`, `super::`, an imported module or a child module.
//!   The importing file depends on the file that defines the first name of the path that is not a module. For a
//!   re-exported name, this is the file of the definition: `use super::Job` in a child of `queue` depends on `queue/job.rs`.
//! - A re-export (`pub use`) is not a dependency. The import of a module is not a dependency, only the use of its names.
//! - A file may use names that the `mod.rs` of its own folder or of a parent folder defines. All other imports must be
//!   acyclic, also between folders.
//! - Unit tests and comments are ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

type ModulePath = Vec<String>;

#[test]
fn source_files_have_no_import_cycles() {
    let tree = SourceTree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let cycles = tree.cycles();
    assert!(cycles.is_empty(), "files import each other:\n{}", cycles.join("\n"));
}

#[test]
fn an_import_cycle_is_detected() {
    let cycles = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned()));
        SourceTree::new(files.collect()).cycles()
    };
    let parent = ("a/mod.rs", "mod b;\nmod c;\npub use b::{B, make as build};\npub struct A;");
    let c = ("a/c.rs", "use super::{A, B};\npub struct C(A, B);");
    assert_eq!(cycles(&[parent, c, ("a/b.rs", "use super::A;\npub struct B(A);")]), [""; 0]);
    let found = ["a/b.rs -> a/c.rs -> a/b.rs"];
    for text in [
        "use super::c::C;\npub struct B(C);",
        "use crate::{\n    a::{A, c::{self, C as D}},\n};",
        "fn b() { super::c::C::new() }",
        "use super::c;\nfn b() { c::new() }",
    ] {
        assert_eq!(cycles(&[parent, c, ("a/b.rs", text)]), found, "{text}");
    }
    for text in [
        "/// Like [`super::c::C`].\npub(in crate::a) struct B;",
        "use super::c;",
        "#[cfg(test)]\nmod tests {\n    use crate::a::c::C;\n}",
    ] {
        assert_eq!(cycles(&[parent, c, ("a/b.rs", text)]), [""; 0], "{text}");
    }
    let builds = ("a/c.rs", "use super::build;");
    assert_eq!(cycles(&[parent, builds, ("a/b.rs", "use crate::a::c::C;")]), found);
    let d = ("d/mod.rs", "mod e;\nuse crate::a::A;\nfn d(a: A) -> e::E {}");
    let e = ("d/e.rs", "pub struct E;");
    let uses_d = ("a/b.rs", "use crate::d::d;\npub struct B;");
    let parent = ("a/mod.rs", "mod b;\npub struct A(b::B);");
    assert_eq!(cycles(&[parent, uses_d, d, e]), ["a/mod.rs -> a/b.rs -> d/mod.rs -> a/mod.rs"]);
}

/// The source files of the crate by module path.
struct SourceTree {
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Default)]
struct Module {
    file: String,
    /// The code without imports.
    code: String,
    imports: Vec<Import>,
}

struct Import {
    path: ModulePath,
    name: String,
    is_reexport: bool,
}

impl SourceTree {
    fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        let mut folders = vec![src.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    files.push((path.strip_prefix(src).unwrap().to_owned(), text));
                }
            }
        }
        Self::new(files)
    }

    fn new(files: Vec<(PathBuf, String)>) -> Self {
        let modules = files.into_iter().filter_map(|(path, text)| {
            let mut module: ModulePath = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            match module.pop().unwrap().strip_suffix(".rs").unwrap() {
                "main" | "build" => return None,
                "mod" | "lib" => {}
                name => module.push(name.to_owned()),
            }
            let (imports, code) = split_imports(&text);
            Some((module, Module { file: path.to_str().unwrap().to_owned(), code, imports }))
        });
        Self { modules: modules.collect() }
    }

    /// Returns the shortest cycle through each file that is part of a cycle, as `a -> b -> a`, without repetitions. A cycle
    /// starts with its first file in alphabetical order.
    fn cycles(&self) -> Vec<String> {
        let edges: BTreeMap<_, _> =
            self.modules.keys().map(|module| (module, self.dependencies(module))).collect();
        let mut found = BTreeSet::new();
        for start in edges.keys() {
            let mut paths = vec![vec![*start]];
            let mut seen = BTreeSet::new();
            // A breadth-first search finds the shortest cycle through `start`.
            while let Some(path) = (!paths.is_empty()).then(|| paths.remove(0)) {
                for next in &edges[path[path.len() - 1]] {
                    if next == *start {
                        let first = (0..path.len()).min_by_key(|at| path[*at]).unwrap();
                        let files = path[first..].iter().chain(&path[..first]).chain([&path[first]]);
                        let files: Vec<_> = files.map(|module| &*self.modules[*module].file).collect();
                        found.insert(files.join(" -> "));
                        paths.clear();
                        break;
                    }
                    if seen.insert(next.clone()) {
                        let (next, _) = self.modules.get_key_value(next).unwrap();
                        paths.push([&path[..], &[next]].concat());
                    }
                }
            }
        }
        found.into_iter().collect()
    }

    /// Returns the modules whose names `module` uses, except `module` and its parents.
    fn dependencies(&self, module: &ModulePath) -> BTreeSet<ModulePath> {
        let own = &self.modules[module];
        let mut found = BTreeSet::new();
        for import in own.imports.iter().filter(|import| !import.is_reexport) {
            match self.resolve(module, &import.path) {
                Some(Target::Name(definer)) => drop(found.insert(definer)),
                Some(Target::Module(alias)) => {
                    for rest in paths_after(&own.code, &import.name) {
                        let path = [alias.as_slice(), &rest].concat();
                        found.extend(self.resolve_absolute(&path).and_then(Target::into_name));
                    }
                }
                None => {}
            }
        }
        for root in ["crate", "super"] {
            for rest in paths_after(&own.code, root) {
                let path = [&[root.to_owned()], rest.as_slice()].concat();
                found.extend(self.resolve(module, &path).and_then(Target::into_name));
            }
        }
        for child in
            self.modules.keys().filter(|child| child.split_last().is_some_and(|(_, parent)| parent == module))
        {
            for rest in paths_after(&own.code, &child[module.len()]) {
                let path = [child.as_slice(), &rest].concat();
                found.extend(self.resolve_absolute(&path).and_then(Target::into_name));
            }
        }
        found.retain(|other| !module.starts_with(other));
        found
    }

    fn resolve(&self, module: &ModulePath, path: &[String]) -> Option<Target> {
        let ups = path.iter().take_while(|step| *step == "super").count();
        let (base, rest) = match path[0].as_str() {
            "crate" => (&module[..0], &path[1..]),
            "self" => (&module[..], &path[1..]),
            "super" => (&module[..module.len().checked_sub(ups)?], &path[ups..]),
            child if self.modules.contains_key(&[module.as_slice(), &[child.to_owned()]].concat()) => {
                (&module[..], path)
            }
            _ => return None,
        };
        self.resolve_absolute(&[base, rest].concat())
    }

    fn resolve_absolute(&self, path: &[String]) -> Option<Target> {
        let depth = (0..=path.len()).rev().find(|depth| self.modules.contains_key(&path[..*depth]))?;
        let module = path[..depth].to_vec();
        let Some(name) = path.get(depth) else { return Some(Target::Module(module)) };
        let reexports = self.modules[&module].imports.iter().filter(|import| import.is_reexport);
        let source = reexports.filter(|import| import.name == *name).find_map(|import| {
            let path = [import.path.as_slice(), &path[depth + 1..]].concat();
            self.resolve(&module, &path)
        });
        Some(source.unwrap_or(Target::Name(module)))
    }
}

enum Target {
    Module(ModulePath),
    /// A name, with the module that defines it.
    Name(ModulePath),
}

impl Target {
    fn into_name(self) -> Option<ModulePath> {
        match self {
            Self::Name(module) => Some(module),
            Self::Module(_) => None,
        }
    }
}

/// Splits a source text into its imports and the rest of its code.
fn split_imports(text: &str) -> (Vec<Import>, String) {
    let text = text.split("#[cfg(test)]").next().unwrap();
    let mut code: String =
        text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
    // The visibility `pub(in crate::api)` is not a dependency.
    code = code.replace("(in crate::", "(in ");
    let (mut imports, mut rest, mut statement) = (Vec::new(), String::new(), None::<String>);
    for line in code.lines() {
        let start = line.trim_start();
        let is_import = start.starts_with("use ") || start.starts_with("pub") && start.contains(" use ");
        match &mut statement {
            Some(statement) => *statement += line,
            None if is_import => statement = Some(line.to_owned()),
            None => rest = rest + line + "\n",
        }
        if let Some(whole) = statement.take_if(|statement| statement.contains(';')) {
            let (visibility, tree) = whole.split_once("use ").unwrap();
            expand(&[], tree.split(';').next().unwrap(), visibility.contains("pub"), &mut imports);
        }
    }
    (imports, rest)
}

/// Flattens the tree of a `use` statement.
fn expand(prefix: &[String], tree: &str, is_reexport: bool, imports: &mut Vec<Import>) {
    let (steps, group) = match tree.split_once('{') {
        Some((steps, group)) => (steps, group.rsplit_once('}').map(|(group, _)| group)),
        None => (tree, None),
    };
    let (steps, alias) = match steps.split_once(" as ") {
        Some((steps, alias)) if group.is_none() => (steps, Some(alias.trim().to_owned())),
        _ => (steps, None),
    };
    let mut path = prefix.to_vec();
    path.extend(steps.split("::").map(|step| step.trim().to_owned()).filter(|step| !step.is_empty()));
    if let Some(group) = group {
        let mut depth = 0;
        let parts = group.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        for part in parts.filter(|part| !part.trim().is_empty()) {
            expand(&path, part, is_reexport, imports);
        }
        return;
    }
    if path.len() > 1 && path.last().is_some_and(|step| step == "self") {
        path.pop();
    }
    let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
    imports.push(Import { path, name, is_reexport });
}

/// Returns the paths in `code` that start with `root::`, without the root.
fn paths_after(code: &str, root: &str) -> Vec<ModulePath> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let root = format!("{root}::");
    let begins = |at: usize| !code[..at].ends_with(|c: char| is_word(c) || c == ':');
    let found = code.match_indices(&root).filter(|(at, _)| begins(*at));
    let paths = found.map(|(at, _)| {
        let path = code[at + root.len()..].split(|c: char| !is_word(c) && c != ':').next().unwrap();
        path.split("::").filter(|step| !step.is_empty()).map(str::to_owned).collect::<ModulePath>()
    });
    paths.filter(|path| !path.is_empty()).collect()
}
