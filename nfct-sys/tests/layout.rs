//! Compares the bindings with the real headers: a C program made from
//! `bindings.rs` prints every constant, enumeration, structure and field as
//! the C compiler sees them, and each must equal the value in Rust.
//!
//! bindgen reads the headers with libclang, so its own layout tests repeat
//! libclang's opinion; here they are compared with the system's C compiler.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{c_int, c_uchar, c_uint, c_ushort};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const BINDINGS: &str = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// Names that only bindgen knows: helper types for bit-fields, flexible arrays
/// and unions, and the numbered names that it gives to anonymous C types
/// (`_bindgen_ty_7`, `nfct_filter__bindgen_ty_1`). The constants of an
/// anonymous enumeration are held like all others.
const ONLY_IN_BINDGEN: [&str; 4] =
    ["__BindgenBitfieldUnit", "__BindgenUnionField", "__IncompleteArrayField", "_bindgen_ty_"];

/// Fields whose C name is a keyword of Rust: (Rust's name, C's name).
const RENAMED_FIELDS: [(&str, &str); 1] = [("type_", "type")];

/// What is compared: "constant ATTR_MARK" to "25", "struct nlmsghdr" to "size 16 align 4".
type Facts = BTreeMap<String, String>;

macro_rules! layouts {
    ($($kind:tt $name:ident { $($field:ident),+ })+) => {{
        let mut facts = Facts::new();
        $(
            facts.insert(
                format!("{} {}", stringify!($kind), stringify!($name)),
                format!("size {} align {}", size_of::<nfct_sys::$name>(), align_of::<nfct_sys::$name>()),
            );
            $(
                facts.insert(
                    format!("field {}.{}", stringify!($name), stringify!($field)),
                    format!(
                        "offset {} size {}",
                        std::mem::offset_of!(nfct_sys::$name, $field),
                        layouts!(@size $kind $name $field),
                    ),
                );
            )+
        )+
        facts
    }};
    (@size struct $name:ident $field:ident) => { size_when_read(|item: &nfct_sys::$name| &item.$field) };
    // To read a union's field is unsafe, to write one is not.
    (@size union $name:ident $field:ident) => { size_when_written(|value| nfct_sys::$name { $field: value }) };
}

fn size_when_read<Whole, Field>(_: fn(&Whole) -> &Field) -> usize {
    size_of::<Field>()
}

fn size_when_written<Whole, Field>(_: fn(Field) -> Whole) -> usize {
    size_of::<Field>()
}

/// Rust's view of every structure and union with fields; the test fails when
/// `bindings.rs` has one, or a field of one, that is not here.
fn rust_layouts() -> Facts {
    layouts! {
        struct nfgenmsg { nfgen_family, version, res_id }
        struct nlmsghdr { nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid }
        struct nfct_attr_grp_ipv4 { src, dst }
        struct nfct_attr_grp_ipv6 { src, dst }
        struct nfct_attr_grp_port { sport, dport }
        struct nfct_attr_grp_icmp { id, code, type_ }
        struct nfct_attr_grp_ctrs { packets, bytes }
        union nfct_attr_grp_addr { ip, ip6, addr }
        struct nfct_filter_proto { proto, state }
        struct nfct_filter_ipv4 { addr, mask }
        struct nfct_filter_ipv6 { addr, mask }
        struct nfct_filter_dump_mark { val, mask }
    }
}

#[test]
fn bindings_are_what_the_c_compiler_sees() {
    let bindings = Bindings::parse(BINDINGS);

    let listed = rust_layouts();
    let emitted: BTreeSet<String> = bindings.layout_keys().collect();
    let known: BTreeSet<String> = listed.keys().cloned().collect();
    let missing: Vec<&String> = emitted.difference(&known).collect();
    assert!(missing.is_empty(), "bindings.rs has what `rust_layouts` does not list: {missing:?}");

    let mut rust = listed;
    for (name, value) in &bindings.constants {
        rust.insert(format!("constant {name}"), value.to_string());
    }
    for (name, repr) in &bindings.enums {
        rust.insert(format!("enum {name}"), integer(repr));
    }
    let c = c_facts(&bindings);

    let wrong: Vec<String> = rust
        .keys()
        .chain(c.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|key| rust.get(*key) != c.get(*key))
        .map(|key| format!("{key}: Rust has {:?}, C has {:?}", rust.get(key), c.get(key)))
        .collect();
    assert!(wrong.is_empty(), "bindings.rs and the headers differ:\n{}", wrong.join("\n"));

    println!(
        "{} constants, {} enumerations, {} structs and unions, {} fields held",
        bindings.constants.len(),
        bindings.enums.len(),
        bindings.records.len(),
        bindings.records.iter().map(|record| record.fields.len()).sum::<usize>(),
    );
}

#[test]
fn bindings_hold_the_names_that_matter() {
    // A parser that finds nothing would hold nothing against anything.
    let bindings = Bindings::parse(BINDINGS);
    for name in ["ATTR_MARK", "NFCT_T_ERROR", "NFCT_Q_DUMP", "IPS_ASSURED", "CTA_TUPLE_REPLY", "NLM_F_DUMP"] {
        assert!(bindings.constants.contains_key(name), "no constant {name}");
    }
    assert!(bindings.enums.contains_key("nf_conntrack_attr"), "no enumeration nf_conntrack_attr");
    assert!(bindings.functions.contains("nfct_callback_register2"), "no function nfct_callback_register2");
    assert!(bindings.opaque.contains("nf_conntrack"), "no opaque type nf_conntrack");
}

#[test]
fn no_foreign_names() {
    let bindings = Bindings::parse(BINDINGS);
    for name in &bindings.functions {
        assert!(name.starts_with("nfct_") || name.starts_with("nfexp_"), "foreign function {name}");
    }
    // nfnl_ are the handles of libnfnetlink that a few functions take; the other two are the
    // kernel's message headers. FILE, timespec and the like have no business here.
    let records = bindings.records.iter().map(|record| &record.name);
    for name in records.chain(&bindings.opaque) {
        assert!(
            ["nf_", "nfct_", "nfnl_"].iter().any(|prefix| name.starts_with(prefix))
                || ["nlmsghdr", "nfgenmsg"].contains(&name.as_str()),
            "foreign type {name}"
        );
    }
    for name in bindings.constants.keys() {
        assert!(
            ["ATTR_", "CTA_", "IP_CT_", "IPCT_", "IPCTNL_", "IPEXP_", "IPS_", "NF", "NETLINK_", "NL"]
                .iter()
                .chain(&["TCP_", "DCCP_", "SCTP_"])
                .any(|prefix| name.trim_start_matches("__").starts_with(prefix)),
            "foreign constant {name}"
        );
    }
}

#[test]
fn parser_reads_what_bindgen_writes_without_rustfmt() {
    let bindings = Bindings::parse(
        r#"pub const A : e = - 2147483648 ; pub type e = :: core :: ffi :: c_int ; pub type __u8 = u8 ;
        # [repr (C)] pub struct s { pub type_ : [u32 ; 4usize] , pub b : u8 , } const _ : () = { ["Size of s"] } ;
        pub union u { pub c : u64 } pub struct o { _unused : [u8 ; 0] , }
        unsafe extern "C" { pub fn f (type_ : e) ; }"#,
    );
    assert_eq!(bindings.constants, BTreeMap::from([("A".into(), -2147483648)]));
    assert_eq!(bindings.enums, BTreeMap::from([("e".into(), "c_int".into())]));
    assert_eq!(
        bindings.layout_keys().collect::<Vec<_>>(),
        ["struct s", "field s.type_", "field s.b", "union u", "field u.c"]
    );
    assert_eq!(bindings.functions, BTreeSet::from(["f".into()]));
    assert_eq!(bindings.opaque, BTreeSet::from(["o".into()]));
}

/// The public items of a `bindings.rs`.
#[derive(Default)]
struct Bindings {
    constants: BTreeMap<String, i128>,
    /// C enumerations, each with its integer type in `core::ffi`.
    enums: BTreeMap<String, String>,
    records: Vec<Record>,
    /// Types that are private to the library.
    opaque: BTreeSet<String>,
    functions: BTreeSet<String>,
}

/// A structure or union with public fields.
struct Record {
    kind: String,
    name: String,
    fields: Vec<String>,
}

impl Bindings {
    /// Panics on every public item whose shape it does not know, so that none goes unheld.
    fn parse(text: &str) -> Self {
        let tokens = tokens(text);
        let mut bindings = Self::default();
        for (at, _) in tokens.iter().enumerate().filter(|(_, token)| **token == "pub") {
            let item = &tokens[at + 1..];
            if item.len() > 1 && ONLY_IN_BINDGEN.iter().any(|skipped| item[1].contains(skipped)) {
                continue;
            }
            match item {
                ["const", name, ":", ..] => {
                    let value = &item[position(item, "=") + 1..position(item, ";")];
                    let value =
                        value.concat().parse().unwrap_or_else(|_| panic!("constant {name}: {value:?}"));
                    bindings.constants.insert((*name).into(), value);
                }
                ["type", name, "=", ":", ":", "core", ":", ":", "ffi", ":", ":", repr, ";", ..]
                    if !name.starts_with("__") =>
                {
                    bindings.enums.insert((*name).into(), (*repr).into());
                }
                // The kernel's integers (`__u8`, `__be16`): held wherever a field has one.
                ["type", name, "=", ..] if name.starts_with("__") => {}
                [kind @ ("struct" | "union"), name, "{", body @ ..] => {
                    let body = &body[..position(body, "}")];
                    let fields: Vec<String> = body
                        .windows(3)
                        .filter(|window| window[0] == "pub" && window[2] == ":")
                        .map(|window| window[1].into())
                        .collect();
                    if fields.is_empty() {
                        assert_eq!(body.first(), Some(&"_unused"), "fields of {name} that are not public");
                        bindings.opaque.insert((*name).into());
                    } else {
                        bindings.records.push(Record { kind: (*kind).into(), name: (*name).into(), fields });
                    }
                }
                ["fn", name, "(", ..] => {
                    bindings.functions.insert((*name).into());
                }
                // A field, seen already with its structure.
                [_, ":", ..] => {}
                _ => panic!("unknown item: pub {}", item[..item.len().min(12)].join(" ")),
            }
        }
        bindings
    }

    /// The keys that the `layouts!` list must have.
    fn layout_keys(&self) -> impl Iterator<Item = String> {
        self.records.iter().flat_map(|Record { kind, name, fields }| {
            let item = format!("{kind} {name}");
            std::iter::once(item).chain(fields.iter().map(move |field| format!("field {name}.{field}")))
        })
    }
}

/// Cuts Rust text into words and single signs and drops string literals: bindgen
/// lays its output out differently where it finds no rustfmt.
fn tokens(text: &str) -> Vec<&str> {
    let is_word = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_word(first) {
            rest.find(|sign| !is_word(sign)).unwrap_or(rest.len())
        } else if first == '"' {
            rest[1..].find('"').expect("a string ends") + 2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if first != '"' {
            found.push(token);
        }
        rest = after.trim_start();
    }
    found
}

fn position(tokens: &[&str], wanted: &str) -> usize {
    tokens.iter().position(|token| *token == wanted).unwrap_or_else(|| panic!("no `{wanted}` in {tokens:?}"))
}

/// Size and sign of an integer type of `core::ffi`, in the words of the C program.
fn integer(repr: &str) -> String {
    let (size, signed) = match repr {
        "c_uchar" => (size_of::<c_uchar>(), false),
        "c_ushort" => (size_of::<c_ushort>(), false),
        "c_uint" => (size_of::<c_uint>(), false),
        "c_int" => (size_of::<c_int>(), true),
        _ => panic!("unknown integer type {repr}"),
    };
    format!("size {size} signed {}", u8::from(signed))
}

/// The facts as a C program prints them.
fn c_facts(bindings: &Bindings) -> Facts {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = folder.join("layout.c");
    fs::write(&source, c_program(bindings)).expect("the C program is written");
    let program = compile(&source);

    let output = Command::new(&program).output().expect("the C program runs");
    assert!(output.status.success(), "{} ended with {}", program.display(), output.status);
    String::from_utf8(output.stdout)
        .expect("the C program prints ASCII")
        .lines()
        .map(|line| line.split_once('=').expect("the C program prints key=value"))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn c_program(bindings: &Bindings) -> String {
    // A negative value needs a signed format, one above 2^63 an unsigned one.
    let mut text = String::from(
        "#include \"wrapper.h\"\n\
         #define CONSTANT(name) \\\n\
         \t((name) < 0 ? printf(\"constant %s=%lld\\n\", #name, (long long)(name)) \\\n\
         \t            : printf(\"constant %s=%llu\\n\", #name, (unsigned long long)(name)))\n\
         #define ENUM(name) \\\n\
         \tprintf(\"enum %s=size %zu signed %d\\n\", #name, sizeof(enum name), (enum name)-1 < 0)\n\
         #define RECORD(kind, name) \\\n\
         \tprintf(\"%s %s=size %zu align %zu\\n\", #kind, #name, sizeof(kind name), _Alignof(kind name))\n\
         #define FIELD(kind, name, rust, field) \\\n\
         \tprintf(\"field %s.%s=offset %zu size %zu\\n\", #name, rust, \\\n\
         \t       offsetof(kind name, field), sizeof(((kind name *)0)->field))\n\
         \n\
         int main(void)\n{\n",
    );
    // `#name` would print the expansion of a macro if it were passed on. Here it is the name itself.
    for name in bindings.constants.keys() {
        writeln!(text, "\tCONSTANT({name});").expect("a String takes all");
    }
    for name in bindings.enums.keys() {
        writeln!(text, "\tENUM({name});").expect("a String takes all");
    }
    for Record { kind, name, fields } in &bindings.records {
        writeln!(text, "\tRECORD({kind}, {name});").expect("a String takes all");
        for rust in fields {
            let c =
                RENAMED_FIELDS.iter().find(|(renamed, _)| renamed == rust).map_or(rust.as_str(), |(_, c)| c);
            writeln!(text, "\tFIELD({kind}, {name}, \"{rust}\", {c});").expect("a String takes all");
        }
    }
    text.push_str("\treturn 0;\n}\n");
    text
}

/// Compiles one C file with the system's compiler and returns the program's path.
fn compile(source: &Path) -> PathBuf {
    let program = source.with_extension("");
    // Outside a build script, `cc` does not know the target.
    let host = host();
    let compiler = cc::Build::new()
        .target(&host)
        .host(&host)
        .opt_level(0)
        .cargo_metadata(false)
        .out_dir(env!("CARGO_TARGET_TMPDIR"))
        .get_compiler();
    let output = compiler
        .to_command()
        .args(["-std=c11", "-w"])
        .arg(format!("-I{}", env!("CARGO_MANIFEST_DIR")))
        .args(include_paths())
        .arg(source)
        .arg("-o")
        .arg(&program)
        .output()
        .expect("the C compiler starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// The triple of this machine, as the toolchain calls it.
fn host() -> String {
    let output = Command::new(env!("CARGO")).arg("-vV").output().expect("cargo starts");
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host").to_owned()
}

/// The compiler options for the library's headers, from pkg-config; none on most systems.
fn include_paths() -> Vec<String> {
    let pkg_config = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(pkg_config)
        .args(["--cflags-only-I", "libnetfilter_conntrack"])
        .output()
        .expect("pkg-config starts, as it did for the build");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}
