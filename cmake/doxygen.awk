# What doxygen reads in the place of functions.inc: the functions in namespace lmp; an overload
# without a comment of its own shares that of the one above.
BEGIN { print "namespace lmp {" }
/^\/\/\// { doc = (fresh ? doc : "") $0 "\n"; fresh = 1 }
/^LMP_API/ { if (!fresh) printf "%s", doc; fresh = 0 }
/^[ ]*LMP_OPERATOR|^#undef LMP_OPERATOR/ { next }
{ print }
END { print "}" }
