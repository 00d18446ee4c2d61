package mounts

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Options are fstab option words sorted into what mount(2) takes.
type Options struct {
	// Flags are the MS_* flags without the propagation ones.
	Flags uintptr
	// Propagation are MS_SHARED, MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE, each with
	// MS_REC where the word says so, in the order written. The kernel takes each
	// in a call of its own.
	Propagation []uintptr
	// Data are the words left, for the file system itself, joined by commas.
	Data string
	// NoFail: a source that is not there is no error (fstab(5), nofail).
	NoFail bool
}

// ReadOnly reports whether the words, of which the last one counts, ask for a
// mount that cannot be written.
func (o Options) ReadOnly() bool { return o.Flags&unix.MS_RDONLY != 0 }

type flag struct {
	bits  uintptr
	clear bool // the word takes the bits away
}

// atime are the words of which the last one counts, as mount(8) has it.
const atime = unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

var flags = map[string]flag{
	"async":         {unix.MS_SYNCHRONOUS, true},
	"bind":          {unix.MS_BIND, false},
	"dev":           {unix.MS_NODEV, true},
	"diratime":      {unix.MS_NODIRATIME, true},
	"dirsync":       {unix.MS_DIRSYNC, false},
	"exec":          {unix.MS_NOEXEC, true},
	"iversion":      {unix.MS_I_VERSION, false},
	"lazytime":      {unix.MS_LAZYTIME, false},
	"loud":          {unix.MS_SILENT, true},
	"mand":          {unix.MS_MANDLOCK, false},
	"nodev":         {unix.MS_NODEV, false},
	"nodiratime":    {unix.MS_NODIRATIME, false},
	"noexec":        {unix.MS_NOEXEC, false},
	"noiversion":    {unix.MS_I_VERSION, true},
	"nolazytime":    {unix.MS_LAZYTIME, true},
	"nomand":        {unix.MS_MANDLOCK, true},
	"norelatime":    {unix.MS_RELATIME, true},
	"nostrictatime": {unix.MS_STRICTATIME, true},
	"nosuid":        {unix.MS_NOSUID, false},
	"nosymfollow":   {unix.MS_NOSYMFOLLOW, false},
	"rbind":         {unix.MS_BIND | unix.MS_REC, false},
	"remount":       {unix.MS_REMOUNT, false},
	"ro":            {unix.MS_RDONLY, false},
	"rw":            {unix.MS_RDONLY, true},
	"silent":        {unix.MS_SILENT, false},
	"suid":          {unix.MS_NOSUID, true},
	"symfollow":     {unix.MS_NOSYMFOLLOW, true},
	"sync":          {unix.MS_SYNCHRONOUS, false},
}

var atimes = map[string]uintptr{
	"atime":       0,
	"noatime":     unix.MS_NOATIME,
	"relatime":    unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME,
}

var propagation = map[string]uintptr{
	"private":     unix.MS_PRIVATE,
	"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
	"shared":      unix.MS_SHARED,
	"rshared":     unix.MS_SHARED | unix.MS_REC,
	"slave":       unix.MS_SLAVE,
	"rslave":      unix.MS_SLAVE | unix.MS_REC,
	"unbindable":  unix.MS_UNBINDABLE,
	"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// userspace are the words of fstab(5) that mean something to mount(8) or to an
// init system and that a file system would refuse.
var userspace = map[string]bool{
	"": true, "defaults": true, "auto": true, "noauto": true, "user": true, "nouser": true, "users": true,
	"owner": true, "group": true, "_netdev": true, "nofail": true,
}

// Parse sorts option words. A word may itself hold several, separated by commas.
func Parse(words []string) Options {
	var o Options
	var data []string
	for _, word := range Words(words...) {
		if f, ok := flags[word]; ok {
			if f.clear {
				o.Flags &^= f.bits
			} else {
				o.Flags |= f.bits
			}
			continue
		}
		if bits, ok := atimes[word]; ok {
			o.Flags = o.Flags&^atime | bits
			continue
		}
		if bits, ok := propagation[word]; ok {
			o.Propagation = append(o.Propagation, bits)
			continue
		}
		if userspace[word] || strings.HasPrefix(word, "x-") || strings.HasPrefix(word, "comment=") {
			o.NoFail = o.NoFail || word == "nofail"
			continue
		}
		data = append(data, word)
	}
	o.Data = strings.Join(data, ",")
	return o
}

// OverlayFolders returns the upperdir and workdir of overlay's options: the
// folders overlay wants to find.
func OverlayFolders(words []string) []string {
	var dirs []string
	for _, word := range Words(words...) {
		key, dir, _ := strings.Cut(word, "=")
		if (key == "upperdir" || key == "workdir") && dir != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Words returns option words one by one, where an item may hold several. It splits
// at the commas that separate words: a comma within double quotes (SELinux contexts)
// or after a backslash (overlay's lowerdir) is part of its word.
func Words(items ...string) []string {
	var words []string
	for _, s := range items {
		start, quoted := 0, false
		for i := 0; i < len(s); i++ {
			switch s[i] {
			case '\\':
				i++
			case '"':
				quoted = !quoted
			case ',':
				if !quoted {
					words = append(words, s[start:i])
					start = i + 1
				}
			}
		}
		words = append(words, s[start:])
	}
	return words
}
