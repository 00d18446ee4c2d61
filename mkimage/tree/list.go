package tree

// Names returns the names of what lies in the directory dir, in order; none if it is not there.
func (r *Root) Names(dir string) []string {
	n, err := r.resolve(clean(dir), false)
	if n == nil || err != nil {
		return nil
	}
	return n.names()
}
