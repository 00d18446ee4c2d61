package tree

// Entries gives fn every entry, in the order of Write. Nothing is read.
func (t *Tree) Entries(fn func(Entry)) {
	p := t.plan()
	for _, e := range p.plain {
		fn(e)
	}
	for _, owned := range p.owned {
		for _, e := range owned {
			fn(e)
		}
	}
	for _, e := range p.links {
		fn(e)
	}
}
