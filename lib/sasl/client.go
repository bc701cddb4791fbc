package sasl

import "bytes"

type plainClient struct{ c Credentials }

func (p *plainClient) Start() ([]byte, error) {
	return []byte(p.c.Authzid + "\x00" + p.c.User + "\x00" + p.c.Password), nil
}

// Next serves servers that ask although they were told.
func (p *plainClient) Next([]byte) ([]byte, error) { return p.Start() }

type loginClient struct {
	c    Credentials
	step int
}

// Start is silent: not every server takes LOGIN's first answer unasked.
func (l *loginClient) Start() ([]byte, error) { return nil, nil }

func (l *loginClient) Next(challenge []byte) ([]byte, error) {
	l.step++
	switch {
	case l.step > 2:
		return nil, badProtocol("server asks too much")
	case l.step == 1 && !bytes.HasPrefix(bytes.ToLower(challenge), []byte("pass")):
		return []byte(l.c.User), nil
	}
	return []byte(l.c.Password), nil
}

type cramClient struct{ c Credentials }

func (m *cramClient) Start() ([]byte, error) { return nil, nil }

func (m *cramClient) Next(challenge []byte) ([]byte, error) {
	if len(challenge) == 0 {
		return nil, badProtocol("empty challenge")
	}
	return []byte(m.c.User + " " + CRAM(m.c.Password, challenge)), nil
}
