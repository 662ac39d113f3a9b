//! Finds conditions of more than one part, of which one is a `let`.

use syn::visit::{self, Visit};
use syn::{BinOp, Expr, ExprBinary};

#[derive(Default)]
struct LetChains(usize);

impl<'ast> Visit<'ast> for LetChains {
    fn visit_expr_binary(&mut self, binary: &'ast ExprBinary) {
        let is_let = |part: &Expr| matches!(part, Expr::Let(_));
        if matches!(binary.op, BinOp::And(_)) && (is_let(&binary.left) || is_let(&binary.right)) {
            self.0 += 1;
        }
        visit::visit_expr_binary(self, binary);
    }
}

/// Their number in a source text.
pub fn count(text: &str) -> syn::Result<usize> {
    let mut chains = LetChains::default();
    chains.visit_file(&syn::parse_file(text)?);
    Ok(chains.0)
}

#[test]
fn only_a_let_with_another_condition_is_a_chain() {
    let text = "
        fn f() {
            if let Some(x) = a { }
            if matches!(a, Some(_)) && b { }
            if let Some(x) = a && b { }
            while b && let Some(x) = a { }
        }
    ";
    assert_eq!(count(text).unwrap(), 2);
}
