package accounts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// keyFile holds the 32 octets under which recoverable passwords are sealed
// (AES-256-GCM, bound to user@realm). That it exists means that such passwords
// are wanted: daemons and saslpasswd2 need no other word about it. A copy of
// the database alone gives no password away.
type keyFile struct {
	dir  *os.File
	name string
	mu   sync.Mutex
	key  []byte
}

// load returns the key, nil if there is no file.
func (k *keyFile) load() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key != nil {
		return k.key, nil
	}
	f, err := openAt(k.dir, k.name, unix.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	key := make([]byte, 33)
	n, err := io.ReadFull(f, key)
	if n != 32 || err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("%s: not a key file", k.name)
	}
	k.key = key[:32]
	return k.key, nil
}

// create makes the file, unless there is one.
func (k *keyFile) create(t *table) error {
	if key, err := k.load(); err != nil || key != nil {
		return err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return t.install(k.name, false, func(f *os.File) error {
		_, err := f.Write(key)
		return err
	})
}

func (k *keyFile) aead() (cipher.AEAD, error) {
	key, err := k.load()
	if err != nil || key == nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal returns "" if there is no key.
func (k *keyFile) seal(who, password string) (string, error) {
	a, err := k.aead()
	if err != nil || a == nil {
		return "", err
	}
	nonce := make([]byte, a.NonceSize(), 64)
	_, _ = rand.Read(nonce)
	return base64.StdEncoding.EncodeToString(a.Seal(nonce, nonce, []byte(password), []byte(who))), nil
}

func (k *keyFile) open(who, sealed string) (string, error) {
	a, err := k.aead()
	if err != nil {
		return "", err
	}
	if a == nil {
		return "", fmt.Errorf("%s: no key file", k.name)
	}
	data, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil || len(data) < a.NonceSize() {
		return "", fmt.Errorf("bad secret of %s", who)
	}
	plain, err := a.Open(nil, data[:a.NonceSize()], data[a.NonceSize():], []byte(who))
	if err != nil {
		return "", fmt.Errorf("secret of %s: %w", who, err)
	}
	return string(plain), nil
}

func openAt(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
