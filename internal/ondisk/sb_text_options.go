package ondisk

// options prints what the superblock says of each option that filesystems of its version have.
func (p *sbPrinter) options() {
	for _, o := range Options(p.sb.Version) {
		p.field(o.Name+":", "%s", p.sb.optionText(o, true))
	}
}
