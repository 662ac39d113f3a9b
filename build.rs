//! Makes what packages ship beside the binary, from the definitions that the
//! program itself uses: the manual page and the shell completions. They land
//! in `share/` under the build script's output folder.

use std::path::PathBuf;
use std::{env, fs, io};

use clap::CommandFactory;
use clap_complete::Shell;

#[allow(dead_code, unreachable_pub)]
#[path = "src/cli.rs"]
mod cli;

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/cli.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("share");
    fs::create_dir_all(&out)?;
    let mut command = cli::Cli::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "pynatconnd", &out)?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).section("8").render(&mut page)?;
    fs::write(out.join("pynatconnd.8"), page)
}
