// Package powercut shows a test what a disk may hold after a power cut.
//
// A Disk watches a folder in which a program works. The test tells it of each
// fsync, and it looks at the folder then: durable is, of a file, what it held at
// its last fsync, and of a directory the names that it had at its own. All that was
// done since may have come to the disk or not. Image makes, in another folder, one of
// the states that might be found were the power cut now: the one in which nothing
// survived that was not asked for, or one that a random source chooses, the same for
// the same seed.
//
// A rename is one change, as a journal keeps it: a file is never lost between two
// names, nor has it both. Of a file's content each sector is old or new, and where it
// grew it may be zeros. Else no order is kept: this is a disk that does what it was
// asked to do, and no more. Real file systems forgive more (an fsync on ext4 brings
// along all that was renamed before), so that with them the same test passes by luck.
//
// It does not know what programs promise; nor what databases do that sync by
// themselves: Own leaves those alone.
package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is what is known of a folder. It is safe for concurrent use, but what changes
// while it looks it may see or not.
type Disk struct {
	mu    sync.Mutex
	root  string
	own   func(path string) bool
	nodes map[uint64]*node
	top   uint64
}

// node is a file or a directory, by its inode. It is held open, so that the number of
// the inode is given to no other.
type node struct {
	ino    uint64
	hold   *os.File
	isDir  bool
	now    content
	synced content
	own    string // path of a file that syncs itself
}

// content is what an fsync makes durable.
type content struct {
	names map[string]uint64 // of a directory
	data  []byte            // of a file
	mode  fs.FileMode
	mtime time.Time
}

// New watches a folder. What is there now is durable. own tells of paths, relative to
// it, whose files are always durable; nil: none.
func New(root string, own func(path string) bool) (*Disk, error) {
	d := &Disk{root: root, own: own, nodes: map[uint64]*node{}}
	if err := d.look(); err != nil {
		return nil, err
	}
	return d, d.SyncTree(root)
}

// Close lets the files go.
func (d *Disk) Close() {
	for _, n := range d.nodes {
		n.hold.Close()
	}
}

// look finds out what is in the folder now.
func (d *Disk) look() error {
	top, err := d.visit(d.root)
	d.top = top
	return err
}

func (d *Disk) visit(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := d.nodes[st.Ino]
	if n == nil {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		n = &node{ino: st.Ino, hold: os.NewFile(uintptr(fd), path), isDir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
		n.synced.mode = 0o600
		d.nodes[st.Ino] = n
	}
	n.now.mode = fs.FileMode(st.Mode & 0o7777)
	n.now.mtime = time.Unix(st.Mtim.Unix())
	if rel, _ := filepath.Rel(d.root, path); d.own != nil && d.own(rel) {
		n.own = path
		return st.Ino, nil
	}
	switch {
	case n.isDir:
		return st.Ino, d.visitAll(path, n)
	case st.Mode&unix.S_IFMT == unix.S_IFREG:
		data, err := os.ReadFile(path)
		n.now.data = data
		return st.Ino, err
	}
	return 0, nil // sockets and the like are nothing that a disk keeps
}

func (d *Disk) visitAll(path string, n *node) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	n.now.names = map[string]uint64{}
	for _, e := range entries {
		ino, err := d.visit(filepath.Join(path, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if ino != 0 {
			n.now.names[e.Name()] = ino
		}
	}
	return nil
}

// Sync is an fsync of the file or directory open as fd.
func (d *Disk) Sync(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return d.sync(st.Ino)
}

// SyncPath is an fsync of what has this name.
func (d *Disk) SyncPath(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return d.sync(st.Ino)
}

func (d *Disk) sync(ino uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.look(); err != nil {
		return err
	}
	n := d.nodes[ino]
	if n == nil {
		return fmt.Errorf("a file was synced that is not in %s", d.root)
	}
	d.settle(n)
	return nil
}

// SyncTree is a syncfs, of all at and below path.
func (d *Disk) SyncTree(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.look(); err != nil {
		return err
	}
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil && d.nodes[st.Ino] != nil {
			d.settle(d.nodes[st.Ino])
		}
		return err
	})
}

// settle makes a node durable as it is. What was renamed into a directory is not where
// it was any more; what was renamed away is where it is now.
func (d *Disk) settle(n *node) {
	for _, ino := range n.synced.names {
		if !n.has(ino) {
			d.arrive(ino)
		}
	}
	n.synced = n.now
	n.synced.names = maps.Clone(n.now.names)
	for _, ino := range n.synced.names {
		for _, other := range d.nodes {
			if other != n && !other.has(ino) {
				maps.DeleteFunc(other.synced.names, func(_ string, i uint64) bool { return i == ino })
			}
		}
	}
}

// arrive makes the names durable that a file has now, and the folders in which they are.
func (d *Disk) arrive(ino uint64) {
	for _, dir := range d.nodes {
		for name, i := range dir.now.names {
			if i != ino || dir.synced.names[name] == ino {
				continue
			}
			if dir.synced.names == nil {
				dir.synced.names = map[string]uint64{}
			}
			dir.synced.names[name] = ino
			d.arrive(dir.ino)
		}
	}
}

// has reports whether a directory has a file now, under whatever name.
func (n *node) has(ino uint64) bool {
	for _, i := range n.now.names {
		if i == ino {
			return true
		}
	}
	return false
}

// Image makes dst, which must not exist, a state in which the folder may be found after
// a power cut now: with a random source some of what was not synced survived, without
// one nothing.
func (d *Disk) Image(dst string, r *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.look(); err != nil {
		return err
	}
	names := map[*node]map[string]uint64{}
	for _, n := range d.nodes {
		names[n] = maps.Clone(n.synced.names)
	}
	if r != nil {
		d.choose(names, r)
	}
	for n, durable := range names {
		d.keepOwn(n, durable)
	}
	im := &image{d: d, names: names, r: r, made: map[uint64]string{}}
	return im.put(d.nodes[d.top], dst)
}

// keepOwn has the names of files that sync themselves as they are now.
func (d *Disk) keepOwn(n *node, durable map[string]uint64) {
	for name, ino := range durable {
		if d.nodes[ino].own != "" {
			delete(durable, name)
		}
	}
	for name, ino := range n.now.names {
		if durable != nil && d.nodes[ino].own != "" {
			durable[name] = ino
		}
	}
}

// change is a name that a directory has now and on the disk for different files, or in
// one of both only (0).
type change struct {
	dir      *node
	name     string
	old, new uint64
}

// choose brings some of the changes to the disk: all that have a file in common, or
// none of them.
func (d *Disk) choose(names map[*node]map[string]uint64, r *rand.Rand) {
	var all []change
	for _, ino := range slices.Sorted(maps.Keys(d.nodes)) {
		n := d.nodes[ino]
		union := maps.Clone(n.synced.names)
		if union == nil {
			union = map[string]uint64{}
		}
		maps.Copy(union, n.now.names)
		for _, name := range slices.Sorted(maps.Keys(union)) {
			if was, is := n.synced.names[name], n.now.names[name]; was != is {
				all = append(all, change{n, name, was, is})
			}
		}
	}
	group := map[uint64]uint64{} // inode -> one that stands for its group
	var find func(uint64) uint64
	find = func(i uint64) uint64 {
		if p, ok := group[i]; ok && p != i {
			return find(p)
		}
		return i
	}
	for _, c := range all {
		if c.old != 0 && c.new != 0 {
			group[find(c.old)] = find(c.new)
		}
	}
	likely := r.Float64()
	chosen := map[uint64]bool{}
	for _, c := range all {
		g := find(max(c.old, c.new))
		yes, known := chosen[g]
		if !known {
			yes = r.Float64() < likely
			chosen[g] = yes
		}
		if !yes {
			continue
		}
		if names[c.dir] == nil {
			names[c.dir] = map[string]uint64{}
		}
		if c.new == 0 {
			delete(names[c.dir], c.name)
		} else {
			names[c.dir][c.name] = c.new
			d.bring(names, c.dir.ino)
		}
	}
}

// bring has a folder on the disk that was made before what is in it.
func (d *Disk) bring(names map[*node]map[string]uint64, dir uint64) {
	if dir == d.top {
		return
	}
	for _, there := range names {
		for _, i := range there {
			if i == dir {
				return
			}
		}
	}
	for _, parent := range d.nodes {
		for name, i := range parent.now.names {
			if i != dir {
				continue
			}
			if names[parent] == nil {
				names[parent] = map[string]uint64{}
			}
			names[parent][name] = dir
			d.bring(names, parent.ino)
		}
	}
}

// image is one being made.
type image struct {
	d     *Disk
	names map[*node]map[string]uint64
	r     *rand.Rand
	made  map[uint64]string
}

func (im *image) put(n *node, dst string) error {
	if first, ok := im.made[n.ino]; ok {
		if n.isDir {
			return nil
		}
		return os.Link(first, dst)
	}
	im.made[n.ino] = dst
	if n.own != "" {
		data, err := os.ReadFile(n.own)
		if err != nil {
			return err
		}
		return os.WriteFile(dst, data, n.now.mode)
	}
	if n.isDir {
		if err := os.Mkdir(dst, 0o700); err != nil {
			return err
		}
		names := im.names[n]
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if err := im.put(im.d.nodes[names[name]], filepath.Join(dst, name)); err != nil {
				return err
			}
		}
		return nil
	}
	c := n.synced
	if im.r != nil {
		c = mix(n.synced, n.now, im.r)
	}
	if err := os.WriteFile(dst, c.data, 0o600); err != nil {
		return err
	}
	if c.mtime.IsZero() {
		c.mtime = time.Now()
	}
	return errors.Join(os.Chtimes(dst, c.mtime, c.mtime), os.Chmod(dst, c.mode))
}

// sector is what a disk writes whole or not at all.
const sector = 512

// mix is what may have come to the disk of one content, after another had.
func mix(old, now content, r *rand.Rand) content {
	if bytes.Equal(old.data, now.data) && old.mode == now.mode {
		return old
	}
	c := old
	if r.IntN(2) == 0 {
		c.mode, c.mtime = now.mode, now.mtime
	}
	if r.IntN(2) == 0 { // the length has a journal, the content has none
		c.data = slices.Clone(old.data[:min(len(old.data), len(now.data))])
		c.data = append(c.data, make([]byte, len(now.data)-len(c.data))...)
	} else {
		c.data = slices.Clone(old.data)
	}
	likely := r.Float64()
	for at := 0; at < len(c.data); at += sector {
		end := min(at+sector, len(c.data), len(now.data))
		if at < end && r.Float64() < likely {
			copy(c.data[at:end], now.data[at:end])
		}
	}
	return c
}

// String lists what is durable.
func (d *Disk) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	var list func(n *node, path string)
	list = func(n *node, path string) {
		fmt.Fprintf(&b, "%s %d\n", path, len(n.synced.data))
		for _, name := range slices.Sorted(maps.Keys(n.synced.names)) {
			list(d.nodes[n.synced.names[name]], path+"/"+name)
		}
	}
	list(d.nodes[d.top], ".")
	return b.String()
}
